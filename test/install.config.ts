/** `npm run test:install`: the documents, followed by every package manager that they name, and on older Effects. */
import { defineConfig } from "vitest/config"
import base from "../vitest.config.js"

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    env: { AUDIT_LONG: "1" },
    include: ["test/docs/install.slow.test.ts"],
    typecheck: { enabled: false }
  }
})
