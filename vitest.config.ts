import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

const source = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

export default defineConfig({
  resolve: {
    alias: [
      { find: /^effect-audit$/, replacement: source("index.ts") },
      { find: /^effect-audit\/(mysql|sqlite|testing)$/, replacement: source("$1.ts") }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    // Long commands with configurations of their own.
    exclude: ["**/node_modules/**", "test/crash/**", "test/cluster/**"],
    globalSetup: ["test/support/mysqlServer.global.ts"],
    pool: "forks",
    // one for each core: most of the time is spent waiting for child processes and for the disk
    maxWorkers: "100%",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    typecheck: {
      enabled: true,
      include: ["test/**/*.test-d.ts"],
      tsconfig: "tsconfig.json",
      ignoreSourceErrors: true
    }
  }
})
