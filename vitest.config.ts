import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"
import { LongestFirst } from "./test/support/sequencer.js"

const source = (path: string) => fileURLToPath(new URL(`./src/${path}`, import.meta.url))

export default defineConfig({
  resolve: {
    alias: [
      { find: /^effect-audit$/, replacement: source("index.ts") },
      { find: /^effect-audit\/(mysql|sqlite|testing)$/, replacement: source("$1.ts") }
    ]
  },
  test: {
    // `npm test` leaves out *.slow.test.ts, and `npm run test:slow` runs those alone
    include: ["test/**/*.test.ts"],
    // They have configurations of their own, since they take long.
    exclude: ["**/node_modules/**", "test/crash/**", "test/cluster/**"],
    globalSetup: ["test/support/shared.global.ts", "test/support/mysqlServer.global.ts"],
    pool: "forks",
    sequence: { sequencer: LongestFirst },
    // Two for each core: most tests wait for servers, child processes and the disk.
    maxWorkers: 2 * availableParallelism(),
    // Only ends what hangs: on a loaded machine a test takes ten times as long.
    testTimeout: 600_000,
    hookTimeout: 600_000,
    // CI shares its machine, and tests start real servers and kill processes. Vitest reports a second try.
    retry: process.env.CI === undefined ? 0 : 1,
    typecheck: {
      enabled: true,
      include: ["test/**/*.test-d.ts"],
      tsconfig: "test/tsconfig.types.json",
      ignoreSourceErrors: true
    }
  }
})
