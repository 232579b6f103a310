/**
 * Sessions that are opened when they are needed, kept while they are good, and given up when they are not.
 */
import { Cause, Effect, Exit, Option, Scope } from "effect"
import { Either, ExecutionStrategy } from "../../../schema/Effect3.js"
import { UploadError } from "../../../schema/Errors.js"
import type { Session } from "./connection.js"
import { open } from "./connection.js"
import type { ConnectionSettings, Endpoint } from "./endpoints.js"
import { endpointsOf } from "./endpoints.js"
import { classify, endsConnection, isBusy, toUploadError } from "./errors.js"
import { Doubted } from "../doubt.js"
import { Refused } from "../narrow.js"

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

interface Kept {
  readonly session: Session
  readonly scope: Scope.CloseableScope
}

/**
 * Makes what runs an effect with a session: one that is idle, or a new one, to the first server in turn that answers;
 * at most so many at once. The session is kept afterwards, unless something is wrong with it; the next one goes to the
 * next server if that is likely to help. All sessions end with the scope.
 */
export const makeSessions = (settings: ConnectionSettings, most: number) =>
  Effect.map(Effect.scope, (layerScope) => {
    const permits = Effect.unsafeMakeSemaphore(most)
    const idle: Array<Kept> = []
    let turn = 0

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

    const connect = (restore: Restore): Effect.Effect<Kept, UploadError> =>
      Effect.gen(function* () {
        const endpoints = yield* endpointsOf(settings)
        const errors: Array<UploadError> = []
        while (errors.length < endpoints.length) {
          const attempt = yield* Effect.either(connectTo(endpoints[turn % endpoints.length]!, restore))
          if (Either.isRight(attempt)) return attempt.right
          errors.push(attempt.left)
          turn++
        }
        // as long as one of them may come back by itself, no operator is needed
        return yield* errors.find((error) => error.class === "transient") ?? errors[0]!
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
      if (failure instanceof Doubted) return Effect.sync(() => idle.push(kept))
      if (failure instanceof Refused && !endsConnection(failure)) return Effect.sync(() => idle.push(kept))
      if (failure instanceof UploadError && failure.class === "transient" && !isBusy(failure)) turn++
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
