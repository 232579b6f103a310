/**
 * Drivers: optional packages, loaded when an uploader is made. If one were imported statically, but is missing or
 * belongs to another Effect, that would fail before schema/Effect3.ts can say what is wrong.
 */
import { Effect } from "effect"

/**
 * Loads modules of the packages once, or dies with what to install. A process that gives up root's rights afterwards
 * may not be able to find them again.
 */
export const load = <A>(packages: string, modules: () => Promise<A>): Effect.Effect<A> => {
  let loaded: Promise<A> | undefined
  return Effect.promise(
    () =>
      (loaded ??= modules().catch((cause: unknown) => {
        loaded = undefined
        const reason = cause instanceof Error ? cause.message : String(cause)
        throw new Error(`The driver cannot be loaded: install ${packages} (${reason})`, { cause })
      }))
  )
}
