/**
 * Drivers: optional packages, loaded when an uploader is made. A static import of one that is missing, or that belongs
 * to another Effect, would fail before schema/Effect3.ts can say what is wrong.
 */
import { Effect } from "effect"

/**
 * Loads modules of the packages, or dies with what to install. Once: a process that has given up root's rights since
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
