/**
 * Drivers: optional packages, loaded when an uploader is made. One may be missing, or belong to another Effect. A
 * static import would then fail before schema/Effect3.ts can say so.
 */
import { Effect } from "effect"

/** Loads modules once, or dies with what to install: a process may lose the right to read them. */
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
