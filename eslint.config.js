import eslint from "@eslint/js"
import { defineConfig, globalIgnores } from "eslint/config"
import tseslint from "typescript-eslint"

// ---------------------------------------------------------------------------------------------------------
// The house (see ARCHITECTURE.md). Imports flow one way: schema <- services <- internal <- layers; the entry
// points and the command come last. Files are the business of one layer, running Effects that of the edge.
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
const notFromTheTop = {
  regex: "^(\\.\\./)+[^/.][^/]*\\.js$",
  message: "The modules at the top of src are built from this directory: import what they re-export."
}

const inside = (directory, ...patterns) => ({
  files: [`src/${directory}/**/*.ts`],
  rules: { "no-restricted-imports": ["error", { patterns: [nodeFs, ...patterns] }] }
})

const house = [
  { files: ["src/*.ts"], rules: { "no-restricted-imports": ["error", { patterns: [nodeFs] }] } },
  inside("schema", notFrom("services", "internal", "layers", "cli"), notFromTheTop),
  inside("services", notFrom("internal", "layers", "cli"), notFromTheTop),
  inside("internal", notFrom("layers", "cli"), notFromTheTop),
  inside("layers", notFrom("cli"), notFromTheTop),
  {
    files: ["src/layers/NodeDisk.ts"],
    rules: { "no-restricted-imports": ["error", { patterns: [notFrom("cli"), notFromTheTop] }] }
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
    files: ["test/**/*.ts", "bench/**/*.ts", "examples/**/*.ts"],
    rules: {
      "@typescript-eslint/require-await": "off"
    }
  },
  ...house
)
