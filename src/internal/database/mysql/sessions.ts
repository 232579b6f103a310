/**
 * Sessions that are opened when they are needed, kept while they are good, and given up when they are not.
 */
import { Array as Arr, Cause, Duration, Effect, Exit, Option, Scope } from "effect"
import { Either, ExecutionStrategy } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import type { Session } from "./connection.js"
import { open } from "./connection.js"
import type { ConnectionSettings, Endpoint } from "./endpoints.js"
import { endpointsOf } from "./endpoints.js"
import { classify, endsConnection, isBusy, toUploadError } from "./errors.js"
import { monotonicMillis } from "../../monotonic.js"
import { Doubted } from "../doubt.js"
import { Refused } from "../narrow.js"

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

interface Kept {
  readonly session: Session
  readonly scope: Scope.CloseableScope
}

/** milliseconds for which a server that hung is tried after all others */
const HUNG_MILLIS = 30_000

/** A group takes some 7 seconds to elect a primary (measured; docs/beyond-one-machine.md). */
const ELECTION_POLL = "500 millis"

/**
 * Makes what runs an effect with a session: one that is idle, or a new one, to the first server in turn that answers;
 * at most so many at once. The session is kept afterwards, unless something is wrong with it; the next one goes to the
 * next server if that is likely to help. All sessions end with the scope.
 */
export const makeSessions = (settings: ConnectionSettings, most: number) =>
  Effect.map(Effect.all([Effect.scope, Effect.clock]), ([layerScope, clock]) => {
    const permits = Effect.unsafeMakeSemaphore(most)
    const idle: Array<Kept> = []
    let turn = 0
    /** when servers that hung, by their names, are as good as any other again */
    const hungUntil = new Map<string, number>()
    const remember = ({ host }: Endpoint, error: UploadError) => {
      if (error.code === "ETIMEDOUT") hungUntil.set(host, monotonicMillis(clock) + HUNG_MILLIS)
    }

    // only connecting itself can be interrupted: nobody would close a session that was lost on its way
    const connectTo = (endpoint: Endpoint, restore: Restore): Effect.Effect<Kept, UploadError> =>
      Effect.gen(function* () {
        const scope = yield* Scope.fork(layerScope, ExecutionStrategy.sequential)
        const session = yield* restore(Scope.extend(open(endpoint), scope)).pipe(
          Effect.mapError(({ cause }) => toUploadError(classify(cause, endpoint))),
          Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
        )
        return { session, scope }
      })

    /**
     * Connects to a server that takes writes, beginning with the one whose turn it is. Those that hung a moment ago come
     * last: a primary that has lost its group takes connections, and answers no INSERT. If the others are read-only, a
     * new primary may be on its way, and is waited for. In the end the INSERT tells: privileged accounts may write to a
     * read-only server.
     */
    const connect = (restore: Restore): Effect.Effect<Kept, UploadError> =>
      Effect.gen(function* () {
        const endpoints = yield* endpointsOf(settings)
        const isOnly = endpoints.length === 1
        const [well, hung] = Arr.partition(
          Arr.rotate(endpoints, -(turn % endpoints.length)),
          ({ host }) => monotonicMillis(clock) < (hungUntil.get(host) ?? 0)
        )
        const errors: Array<UploadError> = []
        let readOnly: Endpoint | undefined

        const firstOf = (some: ReadonlyArray<Endpoint>, takesAny: boolean) =>
          Effect.gen(function* () {
            for (const endpoint of some) {
              const attempt = yield* Effect.either(connectTo(endpoint, restore))
              if (Either.isLeft(attempt)) {
                errors.push(attempt.left)
                remember(endpoint, attempt.left)
              } else if (takesAny || !attempt.right.session.isReadOnly) {
                turn = endpoints.indexOf(endpoint)
                return attempt.right
              } else {
                readOnly = endpoint
                yield* Scope.close(attempt.right.scope, Exit.void)
              }
            }
            return undefined
          })

        let found = yield* firstOf(well, isOnly)
        const until = monotonicMillis(clock) + Duration.toMillis(endpoints[0].connectTimeout)
        while (found === undefined && readOnly !== undefined && monotonicMillis(clock) < until) {
          yield* restore(Effect.sleep(ELECTION_POLL))
          found = yield* firstOf(well, isOnly)
        }
        found ??= yield* firstOf(hung, isOnly)
        if (found === undefined && readOnly !== undefined) found = yield* firstOf([readOnly], true)
        // as long as one of them may come back by itself, no operator is needed
        return found ?? (yield* errors.find((error) => error.class === "transient") ?? errors[0]!)
      })

    const idleOrNew = (restore: Restore): Effect.Effect<Kept, UploadError> =>
      Effect.suspend(() => {
        const kept = idle.pop()
        if (kept === undefined) return connect(restore)
        // servers and proxies end connections that are idle: that is no failure
        return kept.session.isOpen()
          ? Effect.succeed(kept)
          : Effect.zipRight(Scope.close(kept.scope, Exit.void), idleOrNew(restore))
      })

    const giveBack = (kept: Kept, cause: Cause.Cause<unknown>): Effect.Effect<void> => {
      const failure = Option.getOrUndefined(Cause.failureOption(cause))
      // what the code means is not known yet: the search goes on here
      const isOpenQuestion = failure instanceof Doubted && failure.isLikely && !failure.isKnown
      if (isOpenQuestion || (failure instanceof Refused && !endsConnection(failure))) {
        return Effect.sync(() => idle.push(kept))
      }
      const error = failure instanceof Doubted ? failure.error : failure
      if (error instanceof UploadError) {
        remember(kept.session.endpoint, error)
        if (error.class === "transient" && !isBusy(error)) turn++
      }
      return Scope.close(kept.scope, Exit.failCause(cause))
    }

    // few steps, since all of them lie between an answer of the server and its next statement
    return <A, E>(
      use: (session: Session) => Effect.Effect<A, E | UploadError>
    ): Effect.Effect<A, E | UploadError> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.zipRight(
          restore(permits.take(1)),
          Effect.matchCauseEffect(
            Effect.flatMap(idleOrNew(restore), (kept) =>
              Effect.matchCauseEffect(restore(Effect.suspend(() => use(kept.session))), {
                onSuccess: (value) => {
                  idle.push(kept)
                  return Effect.succeed(value)
                },
                onFailure: (cause) => Effect.zipRight(giveBack(kept, cause), Effect.failCause(cause))
              })
            ),
            {
              onSuccess: (value) => Effect.as(permits.release(1), value),
              onFailure: (cause) => Effect.zipRight(permits.release(1), Effect.failCause(cause))
            }
          )
        )
      )
  })
