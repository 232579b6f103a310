/**
 * Containment: a program's loggers, tracer and clock may throw without harm to the audit log.
 *
 * Effect calls them inside a fiber, or while the fiber ends. If one throws there, then the fiber dies, or its observers
 * never learn of its end. So a layer wraps them once, and every fiber that it forks inherits the wrappers.
 */
import {
  Clock,
  Context,
  Duration,
  Effect,
  HashSet,
  Logger,
  LogLevel,
  Option,
  Schedule,
  Scope,
  Tracer
} from "effect"
import { DefaultServices, FiberRef, Supervisor } from "../schema/Effect3.js"
import { visible } from "../schema/Visible.js"
import type { MetricLabel } from "effect"
import { monotonicMillis } from "./monotonic.js"

/** Runs the effect, and all fibers that it forks, with the program's loggers, tracer and clock contained. */
export const contained = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiberRuntime((fiber) => {
    const services = fiber.getFiberRef(DefaultServices.currentServices)
    const level = fiber.getFiberRef(FiberRef.currentMinimumLogLevel) as LogLevel.LogLevel | undefined
    return effect.pipe(
      Effect.locally(LOGGERS, HashSet.map(fiber.getFiberRef(LOGGERS), loggerOf)),
      Effect.locally(
        DefaultServices.currentServices,
        services.pipe(
          Context.add(Tracer.Tracer, tracerOf(Context.get(services, Tracer.Tracer))),
          Context.add(Clock.Clock, clockOf(Context.get(services, Clock.Clock)))
        )
      ),
      // read by every fork, for the metrics of fibers
      Effect.locally(FiberRef.currentMetricLabels, labelsOf(fiber.getFiberRef(FiberRef.currentMetricLabels))),
      // a supervisor of the program's fibers must not see ours
      Effect.locally(FiberRef.currentSupervisor, Supervisor.none),
      // an invalid level would throw when a line is compared with it
      Effect.locally(
        FiberRef.currentMinimumLogLevel,
        typeof level?.ordinal === "number" ? level : LogLevel.Info
      )
    )
  })

/**
 * Like `contained`, for an effect that acquires: its finalizers run with the closing fiber's services, contained, too.
 */
export const containedScope = <A, E, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, Exclude<R, Scope.Scope> | Scope.Scope> =>
  Effect.flatMap(
    Effect.acquireRelease(Scope.make(), (scope, exit) => contained(Scope.close(scope, exit))),
    (scope) => contained(Scope.extend(effect, scope))
  )

/** Runs a step that must not stop the next one, such as a step of a shutdown. If it dies, then that is logged. */
export const step = <A, E, R>(
  name: string,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<Option.Option<A>, never, R> =>
  Effect.matchCauseEffect(
    Effect.suspend(() => effect),
    {
      onSuccess: (value) => Effect.succeedSome(value),
      onFailure: (cause) =>
        Effect.as(
          Effect.zipRight(
            Effect.logError(`audit: ${name} ended unexpectedly; see the debug log, and report it`),
            Effect.logDebug(`audit: ${name} ended unexpectedly`, cause)
          ),
          Option.none<A>()
        )
    }
  )

/** After running so long, a loop is restarted without the earlier delays, milliseconds. Longer than every delay. */
const SOUND = 600_000

/** 1, 2, 4 ... 256, 300, 300 seconds between restarts. `Schedule.resetAfter` would use the wall clock. */
const restarts = Effect.map(Effect.clock, (clock) => {
  let diedAt = monotonicMillis(clock)
  const wasSound = () => {
    const before = diedAt
    diedAt = monotonicMillis(clock)
    return diedAt - before >= SOUND
  }
  return Schedule.exponential("1 second").pipe(
    Schedule.modifyDelay((_, delay) => Duration.min(delay, "300 seconds")),
    Schedule.resetWhen(wasSound)
  )
})

/** Runs a background loop, and restarts it when it dies. */
export const supervised = <A, R>(
  name: string,
  loop: Effect.Effect<A, never, R>
): Effect.Effect<void, never, R> =>
  Effect.flatMap(restarts, (schedule) =>
    Effect.sandbox(Effect.suspend(() => loop)).pipe(
      Effect.tapError((cause) =>
        Effect.zipRight(
          Effect.logError(`audit: ${name} stopped unexpectedly and is started again; see the debug log`),
          Effect.logDebug(`audit: ${name} stopped`, cause)
        )
      ),
      Effect.retry(schedule),
      Effect.catchAll(() => Effect.void)
    )
  )

/** Calls a function of the program; if it throws, then calls `instead`. */
export const attempt = <A>(call: () => A, instead: () => A): A => {
  try {
    return call()
  } catch {
    return instead()
  }
}

// ----------------------------------------------------------------------------------------------- the wrappers

/** Keeps a wrapper for each thing, so that nothing is wrapped twice. */
const once = <T extends object>(wrap: (thing: T) => T): ((thing: T) => T) => {
  const wrappers = new WeakMap<T, T>()
  return (thing) => {
    const known = wrappers.get(thing)
    if (known !== undefined) return known
    const wrapper = wrap(thing)
    wrappers.set(thing, wrapper)
    wrappers.set(wrapper, wrapper)
    return wrapper
  }
}

/** An instance of the same class, with the given members, and all others of the thing. */
const withMembers = <T extends object>(thing: T, members: Partial<T>): T =>
  // not a proxy of the thing itself: that must show the members of a frozen object unchanged
  new Proxy(Object.create(Object.getPrototypeOf(thing) as object | null) as T, {
    has: (_, key) => key in thing,
    get: (_, key) => {
      if (Object.hasOwn(members, key)) return members[key as keyof T]
      const member: unknown = attempt(
        () => Reflect.get(thing, key, thing) as unknown,
        () => undefined
      )
      return typeof member === "function" ? (member.bind(thing) as unknown) : member
    }
  })

const LOGGERS = FiberRef.currentLoggers as FiberRef.FiberRef<HashSet.HashSet<Logger.Logger<unknown, unknown>>>

const loggerOf = once((logger: Logger.Logger<unknown, unknown>) =>
  Logger.make((line) => {
    // the tracer's logger adds each line to the current span; lines at Debug may echo a row, so only logs get them
    if (logger === Logger.tracerLogger && LogLevel.lessThanEqual(line.logLevel, LogLevel.Debug)) return
    attempt<unknown>(
      () => logger.log({ ...line, message: shownOf(line.message) }),
      () => undefined
    )
  })
)

/** Escapes our own lines, which begin with `audit`: names of files may hold control characters. */
const shownOf = (message: unknown): unknown => {
  if (Array.isArray(message)) return message.map(shownOf)
  return typeof message === "string" && message.startsWith("audit") ? visible(message) : message
}

const labelsOf = (labels: ReadonlyArray<MetricLabel.MetricLabel>): ReadonlyArray<MetricLabel.MetricLabel> =>
  attempt(
    () => Array.from(labels),
    () => []
  )

const LIVE_CLOCK = Context.get(DefaultServices.liveServices, Clock.Clock)
const LIVE_TRACER = Context.get(DefaultServices.liveServices, Tracer.Tracer)

/** Milliseconds since 1970 UTC; by the system's clock, if the program's throws or has no valid time. */
export const unsafeMillis = (clock: Clock.Clock): number => {
  const now = readMillis(clock)
  return isMillis(now) ? now : Date.now()
}

const readMillis = (clock: Clock.Clock): number =>
  attempt(
    () => clock.unsafeCurrentTimeMillis(),
    () => Number.NaN
  )

const isMillis = (now: number) => Math.abs(now) <= MAX_MILLIS

/** the largest time of a Date (ECMA-262, 21.4.1.1) */
const MAX_MILLIS = 8.64e15

const clockOf = once((clock: Clock.Clock) => {
  if (clock === LIVE_CLOCK) return clock
  let last: { readonly millis: number; readonly at: number } | undefined
  /**
   * If the clock throws, then its last time goes on with the system's: a jump would end whatever is bounded in time.
   */
  const millis = () => {
    const at = performance.now()
    const now = readMillis(clock)
    if (isMillis(now)) last = { millis: now, at }
    else if (last === undefined) return Date.now()
    else return Math.round(last.millis + at - last.at)
    return now
  }
  const nanos = () =>
    attempt(
      () => {
        const now: unknown = clock.unsafeCurrentTimeNanos()
        return typeof now === "bigint" ? now : LIVE_CLOCK.unsafeCurrentTimeNanos()
      },
      () => LIVE_CLOCK.unsafeCurrentTimeNanos()
    )
  return withMembers(clock, {
    unsafeCurrentTimeMillis: millis,
    unsafeCurrentTimeNanos: nanos,
    currentTimeMillis: Effect.sync(millis),
    currentTimeNanos: Effect.sync(nanos),
    sleep: (duration) =>
      Effect.catchAllCause(
        Effect.suspend(() => clock.sleep(duration)),
        () => LIVE_CLOCK.sleep(Duration.decode(duration))
      )
  })
})

const tracerOf = once((tracer: Tracer.Tracer) => {
  if (tracer === LIVE_TRACER) return tracer
  return Tracer.make({
    span: (...args) => {
      const none = () => LIVE_TRACER.span(...args)
      const span: unknown = attempt(() => tracer.span(...args), none)
      return spanOf(typeof span === "object" && span !== null ? (span as Tracer.Span) : none())
    },
    context: (run, fiber) => {
      // `run` runs once, whatever the tracer does, and its result or exception is passed on
      let ran: (() => ReturnType<typeof run>) | undefined
      const runOnce = () => {
        if (ran === undefined) {
          try {
            const result = run()
            ran = () => result
          } catch (error) {
            ran = () => {
              throw error
            }
          }
        }
        return ran()
      }
      attempt<unknown>(
        () => tracer.context(runOnce, fiber),
        () => undefined
      )
      return runOnce()
    }
  })
})

const spanOf = once((span: Tracer.Span) => {
  const quietly =
    <Args extends ReadonlyArray<unknown>>(call: (...args: Args) => void) =>
    (...args: Args) => {
      attempt(
        () => call(...args),
        () => undefined
      )
    }
  return withMembers(span, {
    get status() {
      const status: Tracer.SpanStatus | undefined = attempt(
        () => span.status,
        () => undefined
      )
      return status ?? { _tag: "Started" as const, startTime: 0n }
    },
    attribute: quietly((...args) => span.attribute(...args)),
    event: quietly((...args) => span.event(...args)),
    addLinks: quietly((...args) => span.addLinks(...args)),
    end: quietly((...args) => span.end(...args))
  })
})
