/**
 * What is thrown outside of Effects while the tests of a file run.
 *
 * @module
 */
import { beforeAll } from "vitest"

/** Collects it from now on; vitest would say it, too, but not in which step of a test. */
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
