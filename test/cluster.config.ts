import { defineConfig } from "vitest/config"

/** `npm run test:cluster`: two minutes, and three servers of its own. */
export default defineConfig({
  test: {
    include: ["test/cluster/*.test.ts"],
    pool: "forks",
    testTimeout: 600_000,
    hookTimeout: 180_000
  }
})
