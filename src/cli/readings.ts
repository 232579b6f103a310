/** The record of who has read what: an Activity in the command's own queue, on disk before anything is shown. */
import { Clock, Effect, Either, Exit, Option, RcRef, Scope } from "effect"
import { v7 } from "uuid"
import * as QueueFileLayer from "../layers/QueueFileLive.js"
import { Activity, type ActivityInput } from "../schema/Activity.js"
import { ExecutionStrategy } from "../schema/Effect3.js"
import { compile } from "../schema/Line.js"
import { Disk } from "../services/Disk.js"
import { Options } from "./effectCli.js"
import { usageError } from "./exit.js"
import { operator } from "./owner.js"
import { settingsOf } from "./settings.js"

export const audit = Options.text("audit").pipe(
  Options.withDescription(
    "Record in the queue of this directory, one of its own, who asks for sensitive fields, an export, or one event"
  ),
  Options.optional
)

export interface Reading {
  readonly action: "audit.reveal" | "audit.export" | "audit.get"
  /** kinds, the id of one event, or ids of dead letters */
  readonly targets: ReadonlyArray<string>
  /** what the targets are, if the action does not say */
  readonly targetType?: "letter"
  readonly asked: Readonly<Record<string, unknown>>
}

export type Recorder = Effect.Effect.Success<ReturnType<typeof makeRecorder>>

/** Records each reading, one event for each target. Without a directory it records nothing. */
export const makeRecorder = (given: Option.Option<string>) =>
  Effect.gen(function* () {
    if (Option.isNone(given)) return () => Effect.void
    const disk = yield* Disk
    const settings = yield* settingsOf(given)
    const { directory } = settings
    const info = yield* disk.info(directory)
    const user = yield* disk.user
    // the owner of the directory could not use files that root makes there
    if (user?.uid === 0 && info !== undefined && info.uid !== 0) {
      return yield* usageError(
        `${directory} belongs to uid ${info.uid}: run the command as that user, or give --audit a directory of root's.`
      )
    }
    const queue = yield* RcRef.make({
      acquire: ownScope(
        QueueFileLayer.make({
          ...settings,
          adopt: undefined,
          isCommand: true,
          lockWait: settings.lockWait ?? "10 seconds",
          reserveBytes: 0
        })
      ),
      idleTimeToLive: IDLE
    })
    return ({ action, asked, targets, targetType }: Reading) =>
      Effect.gen(function* () {
        const { append } = yield* RcRef.get(queue)
        for (const target of targets) {
          const input: ActivityInput = {
            actorName: operator().slice(0, 255),
            actorType: "operator",
            action,
            targetType: targetType ?? (action === "audit.get" ? "event" : "kind"),
            targetId: target.slice(0, 255),
            outcome: "success",
            metadata: asked
          }
          const eventId = v7()
          const line = compile(Activity).encode(input, eventId, yield* Clock.currentTimeMillis)
          yield* append(Either.getOrThrow(line), eventId)
        }
      }).pipe(Effect.scoped)
  })

/** After so long without a reading, the page gives the queue up for other commands, which wait twice as long. */
const IDLE = "5 seconds"

/** If opening fails, closes what it acquired: an RcRef does not do that. */
const ownScope = <A, E, R>(open: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const own = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
    return yield* Scope.extend(open, own).pipe(
      Effect.onError((cause) => Scope.close(own, Exit.failCause(cause)))
    )
  })
