/**
 * Effect 3: an error for every other Effect, and the modules that Effect 4 no longer exports.
 *
 * Each entry point imports this module first. If a named import is missing in `effect`, then loading fails before any
 * code runs, and nobody sees the error. So the names below come from the namespace (test/docs/install.slow.test.ts).
 *
 * @module
 */
import * as effect from "effect"

/** The oldest Effect of our peer range. */
const OLDEST = "3.17.14"

/** The packages of docs/getting-started.md; a test compares them. */
const PACKAGES =
  "effect-audit effect@3 @effect/platform@0.97 @effect/platform-node@0.108 @effect/sql@0.52 " +
  "@effect/experimental@0.61 @effect/cluster@0.60 @effect/rpc@0.76 @effect/workflow@0.19"

interface Namespace {
  readonly Effect: { readonly void: unknown }
  readonly Version?: { readonly getCurrentVersion: () => string } | undefined
}

/** The version of an Effect: until 3 its values hold it, since 4.0.2 a module does. */
const versionOf = (found: Namespace): string | undefined =>
  (found.Effect.void as Record<symbol, { readonly _V?: string } | undefined>)[Symbol.for("effect/Effect")]
    ?._V ?? found.Version?.getCurrentVersion()

const isOurs = (version: string): boolean => {
  const parts = version.split(/[.-]/).map(Number)
  const oldest = OLDEST.split(".").map(Number)
  const first = oldest.findIndex((part, index) => part !== parts[index])
  return parts[0] === oldest[0] && (first === -1 || parts[first]! > oldest[first]!)
}

// only two members: if the whole namespace is passed on, then a bundler keeps all of it
const version = versionOf({ Effect: effect.Effect, Version: (effect as Namespace).Version })
if (version === undefined || !isOurs(version)) {
  throw new Error(
    `effect-audit needs Effect 3, ${OLDEST} or later, but found ${version ?? "an Effect that does not say its version"}: install ${PACKAGES}`
  )
}

/**
 * What is wrong with a fiber's runtime; undefined if nothing is. If two Effects differ by more than a patch, then the
 * program would die somewhere ("Not a valid effect: undefined").
 */
export const strangeRuntime = (fiber: object): string | undefined => {
  const found = versionOf({ Effect: { void: fiber } })
  const minorOf = (version = "") => version.split(".", 2).join(".")
  return minorOf(found) === minorOf(version)
    ? undefined
    : `this program runs by Effect ${found ?? "of another kind"}, and effect-audit was loaded with Effect ${version}: ` +
        `have one of them (npm dedupe, or overrides), or leave effect-audit out of the bundle that holds the other.`
}

export import DefaultServices = effect.DefaultServices
export import Either = effect.Either
export import ExecutionStrategy = effect.ExecutionStrategy
export import FiberRef = effect.FiberRef
export import GlobalValue = effect.GlobalValue
export import MetricBoundaries = effect.MetricBoundaries
export import ParseResult = effect.ParseResult
export import Supervisor = effect.Supervisor
