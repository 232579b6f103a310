/** `npm run test:crash`: the tests of what must never be lost, and others that take long, at full length. */
import { defineConfig } from "vitest/config"
import base from "../vitest.config.js"

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    env: { AUDIT_LONG: "1" },
    include: [
      "crash",
      "kill",
      "exactlyOnce",
      "goingOn",
      "lock",
      "adoption",
      "adoptionCrash",
      "powerLoss",
      "damage",
      "bits",
      "migrate",
      "migrateTables",
      "badPeers",
      "fullServer",
      "values",
      "owners",
      "screens",
      "defects"
    ].map((name) => `test/*/${name}{,.slow}.test.ts`),
    typecheck: { enabled: false },
    testTimeout: 3_600_000
  }
})
