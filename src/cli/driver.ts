/** The drivers of databases: optional peers, loaded only by the commands that need them. */
import { Effect } from "effect"
import { usageError } from "./exit.js"

/** Loads modules that need the driver of a database. If the driver is missing, it says what to install. */
export const loader =
  (database: string, peer: string, driver: () => Promise<unknown>) =>
  <A>(module: () => Promise<A>) =>
    Effect.tryPromise({
      try: async () => {
        await driver()
        return module()
      },
      catch: (cause) =>
        usageError(
          `The driver of ${database} cannot be loaded: npm install ${peer} (${cause instanceof Error ? cause.message : String(cause)})`
        )
    })
