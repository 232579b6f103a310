/**
 * Errors thrown outside Effects while the tests of a file run.
 *
 * @module
 */
import { beforeAll } from "vitest"

/** Collects them from now on. Vitest reports them too, but without the test's step. */
export const collectUncaught = (): Array<unknown> => {
  const uncaught: Array<unknown> = []
  const note = (error: unknown) => void uncaught.push(error)
  beforeAll(() => {
    process.on("uncaughtException", note)
    process.on("unhandledRejection", note)
    return () => {
      process.off("uncaughtException", note)
      process.off("unhandledRejection", note)
    }
  })
  return uncaught
}
