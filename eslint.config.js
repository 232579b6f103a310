import eslint from "@eslint/js"
import { defineConfig, globalIgnores } from "eslint/config"
import tseslint from "typescript-eslint"

// ---------------------------------------------------------------------------------------------------------
// The house (see ARCHITECTURE.md). Imports flow one way: schema <- services <- internal <- layers; the entry
// points and the command come last. Files are the business of one layer, running Effects that of the edge.
// The wings of internal do not know each other: whoever works on one need not read another.
// ---------------------------------------------------------------------------------------------------------

const nodeFs = {
  regex: "^(node:)?fs(/promises)?$",
  message: "Files are touched by src/layers/NodeDisk.ts only: use the Disk service."
}

/** Forbids imports of the named directories beside the one that the importing file lives in. */
const notFrom = (...directories) => ({
  regex: `^(\\.\\./)+(${directories.join("|")})/`,
  message: "Imports flow one way: schema <- services <- internal <- layers <- cli."
})

/** The modules at the top of src are built from the directories, never the other way round. */
const notFromTheTop = (depth) => ({
  regex: `^(\\.\\./){${depth}}[^/.][^/]*\\.js$`,
  message: "The modules at the top of src are built from this directory: import what they re-export."
})

const notFromTheWings = (...wings) => ({
  regex: `^\\.{1,2}/(\\.\\./)*(?:internal/)?(?:${wings.join("|")})/`,
  message:
    "The wings of src/internal do not import each other: what two of them need belongs to schema or services."
})

const notByName = {
  regex: "/schema/(UseLog|LoginLog)\\.js$",
  message: "Nothing below AuditLayer knows a kind by its name: take its definition as an argument."
}

const restrict = (files, ...patterns) => ({
  files,
  rules: { "no-restricted-imports": ["error", { patterns: [nodeFs, ...patterns] }] }
})

const house = [
  restrict(["src/*.ts"]),
  restrict(["src/schema/**/*.ts"], notFrom("services", "internal", "layers", "cli"), notFromTheTop(1)),
  restrict(["src/services/**/*.ts"], notFrom("internal", "layers", "cli"), notFromTheTop(1), notByName),
  ...[
    { files: "*.ts", depth: 1, not: ["queue", "delivery", "database", "proof"] },
    { files: "queue/*.ts", depth: 2, not: ["delivery", "database", "proof", "python"] },
    { files: "delivery/*.ts", depth: 2, not: ["queue", "database", "python"] },
    { files: "proof/*.ts", depth: 2, not: ["queue", "delivery", "database", "python"] },
    { files: "database/*.ts", depth: 2, not: ["queue", "delivery", "python", "mysql", "sqlite"] },
    { files: "database/mysql/*.ts", depth: 3, not: ["queue", "delivery", "python", "sqlite"] },
    { files: "database/sqlite/*.ts", depth: 3, not: ["queue", "delivery", "python", "mysql"] },
    { files: "python/*.ts", depth: 2, not: ["delivery", "database", "proof"] }
  ].map(({ depth, files, not }) =>
    restrict(
      [`src/internal/${files}`],
      notFrom("layers", "cli"),
      notFromTheTop(depth),
      notFromTheWings(...not),
      notByName
    )
  ),
  {
    // it reads hosts and resolv.conf, which are the system's: the queue's disk has nothing to do with them
    files: ["src/internal/database/mysql/lookup.ts"],
    rules: {
      "no-restricted-imports": [
        "error",
        { patterns: [notFrom("layers", "cli"), notFromTheTop(3), notByName] }
      ]
    }
  },
  restrict(["src/layers/**/*.ts"], notFrom("cli"), notFromTheTop(1), notByName),
  // Where programs meet the kinds: `migrate` knows those that come with the package.
  restrict(
    ["src/layers/{AuditLayer,AuditTest,MysqlTrail,MysqlUploader,SqliteTrail}.ts"],
    notFrom("cli"),
    notFromTheTop(1)
  ),
  {
    files: ["src/layers/NodeDisk.ts"],
    rules: { "no-restricted-imports": ["error", { patterns: [notFrom("cli"), notFromTheTop(1)] }] }
  },
  {
    // The command is loaded once src/schema/Effect3.ts has found Effect 3.
    files: ["src/**/*.ts"],
    ignores: ["src/cli/**", "src/schema/Effect3.ts"],
    rules: {
      "@typescript-eslint/no-restricted-imports": [
        "error",
        {
          paths: [
            {
              name: "effect",
              importNames: [
                "DefaultServices",
                "Either",
                "ExecutionStrategy",
                "FiberRef",
                "GlobalValue",
                "MetricBoundaries",
                "ParseResult",
                "Supervisor"
              ],
              allowTypeImports: true,
              message:
                "Effect 4 lacks it, so that nothing would load there to say so: import it from schema/Effect3.js."
            }
          ]
        }
      ]
    }
  },
  {
    files: ["src/**/*.ts"],
    ignores: ["src/cli/**", "src/AuditLogger.ts"],
    rules: {
      "no-restricted-syntax": [
        "error",
        {
          selector:
            "MemberExpression[object.name=/^(Effect|Runtime|ManagedRuntime|NodeRuntime)$/][property.name=/^run(Fork|Promise|Sync|Callback|Main)/]",
          message: "Effects are run at the edge only (src/cli and src/AuditLogger.ts): return the Effect."
        }
      ]
    }
  }
]

export default defineConfig(
  globalIgnores(["**/dist/", "coverage/", "docs/api/", "**/node_modules/"]),
  { linterOptions: { reportUnusedDisableDirectives: "error" } },
  eslint.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname }
    },
    rules: {
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "separate-type-imports" }],
      "@typescript-eslint/no-import-type-side-effects": "error",
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/restrict-template-expressions": [
        "error",
        { allowNumber: true, allowBoolean: true, allowNullish: false }
      ],
      "@typescript-eslint/no-unnecessary-condition": [
        "error",
        { allowConstantLoopConditions: "only-allowed-literals" }
      ],
      // An escape hatch says why: `eslint-disable-next-line @typescript-eslint/no-explicit-any -- the reason`.
      "@typescript-eslint/no-explicit-any": "error",
      "@typescript-eslint/ban-ts-comment": ["error", { minimumDescriptionLength: 10 }],

      // The idiom for an index that is known to exist, under noUncheckedIndexedAccess.
      "@typescript-eslint/no-non-null-assertion": "off",

      // These fight with Effect: generators without a yield, methods passed to `pipe`, phantom type
      // parameters, `{}` as an empty environment, namespaces of types beside a class.
      "require-yield": "off",
      "@typescript-eslint/unbound-method": "off",
      "@typescript-eslint/no-confusing-void-expression": "off",
      "@typescript-eslint/no-unnecessary-type-parameters": "off",
      "@typescript-eslint/no-empty-object-type": "off",
      "@typescript-eslint/no-invalid-void-type": "off",
      "@typescript-eslint/no-namespace": ["error", { allowDeclarations: true }]
    }
  },
  {
    // the script of `serve`'s page, with types in its comments
    files: ["src/cli/page/*.js"],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname }
    },
    rules: {
      "no-undef": "off",
      // the linter does not see the casts in comments, which the types check
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-argument": "off"
    }
  },
  {
    files: ["test/**/*.ts", "bench/**/*.ts", "examples/**/*.ts"],
    rules: {
      "@typescript-eslint/require-await": "off"
    }
  },
  ...house
)
