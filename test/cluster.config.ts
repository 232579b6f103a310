import { defineConfig } from "vitest/config"

/** `npm run test:cluster`: servers of its own, three at a time. */
export default defineConfig({
  test: {
    include: ["test/cluster/*.test.ts"],
    globalSetup: "test/support/shared.global.ts",
    pool: "forks",
    fileParallelism: false,
    testTimeout: 600_000,
    hookTimeout: 180_000
  }
})
