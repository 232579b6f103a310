/**
 * The writer: group commit. All callers who append during one write share the next one.
 *
 * Each caller waits for its own answer, not for the file's semaphore: otherwise each line would be fsynced alone.
 */
import { Effect, Exit, type Scheduler, type Scope } from "effect"
import { attempt, step } from "../contained.js"
import { monotonicMillis } from "../monotonic.js"
import * as watchdog from "../watchdog.js"

/** One caller's addition: a line, or several that are written together. */
export interface Entry<A, E> {
  /** the id of its first line */
  readonly eventId: string
  readonly lines: number
  done(result: Effect.Effect<A, E>): void
}

/** Lines that are written together. */
export interface Group<A, E> {
  readonly entries: ReadonlyArray<Entry<A, E>>
  /** how many, in all entries */
  readonly lines: number
  /** the lines, in the order of their entries; only the write uses them until the group is answered */
  readonly bytes: Uint8Array
}

/** Hot path: a class, not a literal (bench/README.md#literals). */
class Pending<A, E> implements Entry<A, E> {
  constructor(
    readonly eventId: string,
    readonly lines: number,
    private readonly resume: (result: Effect.Effect<A, E>) => void
  ) {}

  /** Never throws: the program's scheduler runs here, and the rest of the group waits for its answers. */
  done(result: Effect.Effect<A, E>): void {
    try {
      this.resume(result)
    } catch {
      // only this caller's fiber is harmed
    }
  }
}

const INITIAL_BYTES = 64 * 1024
/** a larger buffer is not kept, since such groups are rare */
const KEPT_BYTES = 1024 * 1024

/** A group that is being filled. Hot path: a line becomes bytes at once (bench/README.md#bytes-of-a-line). */
class Filling<A, E> implements Group<A, E> {
  readonly entries: Array<Pending<A, E>> = []
  lines = 0
  size = 0
  private buffer = Buffer.allocUnsafeSlow(INITIAL_BYTES)

  get bytes(): Uint8Array {
    return this.buffer.subarray(0, this.size)
  }

  add(text: string, entry: Pending<A, E>): void {
    // a UTF-16 unit takes at most three bytes, so most lines need no exact length
    if (this.size + text.length * 3 > this.buffer.length) this.makeRoom(Buffer.byteLength(text))
    this.size += this.buffer.write(text, this.size)
    this.entries.push(entry)
    this.lines += entry.lines
  }

  private makeRoom(bytes: number): void {
    const needed = this.size + bytes
    if (needed <= this.buffer.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.buffer.length))
    this.buffer.copy(larger, 0, 0, this.size)
    this.buffer = larger
  }

  /** Empties the group for other lines; returns whether its buffer is small enough to keep. */
  reuse(): boolean {
    this.entries.length = 0
    this.lines = 0
    this.size = 0
    return this.buffer.length <= KEPT_BYTES
  }
}

/** Groups that wait to be written, in order; the last one is being filled. */
class Backlog<A, E> {
  private groups: Array<Filling<A, E>> = []
  private spare: Filling<A, E> | undefined

  constructor(private readonly maxGroupBytes: number) {}

  get isEmpty(): boolean {
    return this.groups.length === 0
  }

  /** Returns the group that the text has joined. If memory is short, then it throws, and the text has joined none. */
  add(text: string, entry: Pending<A, E>): Filling<A, E> {
    const group = this.toFill()
    group.add(text, entry)
    return group
  }

  take(): Filling<A, E> | undefined {
    return this.groups.shift()
  }

  /** Takes back an answered group, so that other lines can use its buffer. */
  giveBack(group: Filling<A, E>): void {
    if (group.reuse()) this.spare = group
  }

  refuseAll(refusal: (eventId: string) => E): void {
    const groups = this.groups
    this.groups = []
    for (const { entries } of groups) {
      for (const entry of entries) entry.done(Effect.fail(refusal(entry.eventId)))
    }
  }

  private toFill(): Filling<A, E> {
    const last = this.groups.at(-1)
    if (last !== undefined && last.size < this.maxGroupBytes) return last
    const next = this.spare ?? new Filling<A, E>()
    this.spare = undefined
    this.groups.push(next)
    return next
  }
}

/** Counts entries and their answers, and wakes those who wait for answers. */
class Answers {
  private added = 0
  private answered = 0
  private waiting: Array<{ readonly target: number; readonly resume: () => void }> = []

  readonly all = Effect.async<void>((resume) => {
    if (this.answered === this.added) resume(Effect.void)
    else this.waiting.push({ target: this.added, resume: () => resume(Effect.void) })
  })

  expectOne(): void {
    this.added++
  }

  count(answered: number): void {
    this.answered += answered
    if (this.waiting.length === 0) return
    const served = this.waiting.filter(({ target }) => target <= this.answered)
    this.waiting = this.waiting.filter(({ target }) => target > this.answered)
    for (const { resume } of served) resume()
  }
}

/** Where the writer waits for callers. */
class Bell {
  private ringWaiting: (() => void) | undefined
  private isToRing = false

  /** `isIdle` returns whether there is nothing to write yet */
  constructor(private readonly isIdle: () => boolean) {}

  readonly nextCaller = this.wait(false)
  /** Ends when the event loop turns: a caller who was just answered mostly appends again before that. */
  readonly callerOfThisTurn = this.wait(true)

  ring(): void {
    this.ringWaiting?.()
  }

  /** Rings after everything that is ready to run, since that may add lines. */
  ringSoon(): void {
    if (this.ringWaiting === undefined || this.isToRing) return
    this.isToRing = true
    queueMicrotask(() => {
      this.isToRing = false
      if (!this.isIdle()) this.ring()
    })
  }

  private wait(isForThisTurn: boolean): Effect.Effect<void> {
    return Effect.async<void>((resume) => {
      if (!this.isIdle()) return resume(Effect.void)
      const turn = isForThisTurn ? setImmediate(() => this.ring()) : undefined
      this.ringWaiting = () => {
        this.ringWaiting = undefined
        clearImmediate(turn)
        resume(Effect.void)
      }
    })
  }
}

export interface GroupCommit<A, E> {
  /**
   * Waits until the line, which ends in `\n`, is written. If the caller is interrupted, then the line is still written.
   * The text may hold several lines: all of them are written, or none.
   */
  readonly add: (text: string, eventId: string, lines?: number) => Effect.Effect<A, E>
  /** Waits until all entries that were added before are answered. */
  readonly awaitAnswers: Effect.Effect<void>
  /** Refuses later entries, and waits for the answers of earlier ones. */
  readonly close: Effect.Effect<void>
}

/**
 * Hot path: so many bytes start a write at once, so that callers and disk work at the same time
 * (bench/README.md#eager-writes). Fewer bytes wait for everything that is ready to run.
 */
const EAGER_BYTES = 32 * 1024

/**
 * Writes entries in groups, in order, until the scope closes.
 *
 * `write` answers every entry of its group by `done`. If it takes longer than `timeoutMillis`, then `expired` answers
 * them. The next group does not wait for it; it goes on in the background.
 */
export const make = <A, E>(options: {
  /** `now` is `monotonicMillis` */
  readonly write: (group: Group<A, E>, now: number) => Effect.Effect<void>
  /** held until a group is answered, and on through the groups that follow within one turn of the event loop */
  readonly guard: Effect.Semaphore
  readonly expired: (group: Group<A, E>) => Effect.Effect<void>
  /** the answer to an entry that comes after `close`, or still waits when the scope closes */
  readonly refusal: (eventId: string) => E
  readonly timeoutMillis: number
  /** a group ends when it reaches this size */
  readonly maxGroupBytes: number
}): Effect.Effect<GroupCommit<A, E>, never, Scope.Scope> =>
  Effect.gen(function* () {
    interface UnderWay extends watchdog.UnderWay {
      readonly group: Filling<A, E>
    }
    const clock = yield* Effect.clock
    const backlog = new Backlog<A, E>(options.maxGroupBytes)
    const answers = new Answers()
    const bell = new Bell(() => backlog.isEmpty && !closed)
    let current: UnderWay | undefined
    let closed = false

    /** Counts the answers of a group, written or expired: the next group may be written. */
    const finish = (count: number) => {
      current = undefined
      answers.count(count)
    }
    const release = options.guard.release(1)

    // the group is not reused: the disk may still read its buffer
    const giveUp = ({ group }: UnderWay) =>
      Effect.suspend(() => {
        current = undefined
        // even if `expired` dies, the next group is written
        return Effect.flatMap(step("an append", options.expired(group)), () => {
          finish(group.entries.length)
          return release
        })
      })

    const writing = (group: Filling<A, E>, now: number) =>
      attempt(
        () => options.write(group, now),
        () => Effect.die("the write of a group threw")
      )

    // Hot path: one generator for all groups, and no fiber for each (bench/README.md#generators).
    const writer = Effect.gen(function* () {
      let isHeld = false
      for (;;) {
        // Hot path: keeps the guard between groups of one turn (bench/README.md#the-guard-of-a-turn).
        if (isHeld && backlog.isEmpty) yield* bell.callerOfThisTurn
        if (backlog.isEmpty) {
          if (isHeld) yield* release
          isHeld = false
          if (closed) return
          yield* bell.nextCaller
        }
        if (!isHeld) yield* options.guard.take(1)
        isHeld = true
        // taken only now, so that all callers who came meanwhile join the group
        const group = backlog.take()
        if (group === undefined) continue
        const mine: UnderWay = { group, startedAt: monotonicMillis(clock) }
        current = mine
        watch()
        const exit = yield* Effect.exit(writing(group, mine.startedAt))
        // it has expired meanwhile: another writer holds the guard
        if (current !== mine) return
        if (Exit.isFailure(exit)) {
          yield* giveUp(mine)
          isHeld = false
          continue
        }
        finish(group.entries.length)
        backlog.giveBack(group)
      }
    }).pipe(Effect.withScheduler(AT_ONCE))

    const watch = yield* watchdog.make({
      current: () => current,
      timeoutMillis: options.timeoutMillis,
      expire: (underWay) => Effect.zipRight(giveUp(underWay), Effect.forkDaemon(writer))
    })

    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        closed = true
        backlog.refuseAll(options.refusal)
        bell.ring()
        // the disk has not answered, and nobody is left to wait for it
        return current === undefined ? Effect.void : giveUp(current)
      })
    )
    // it ends once the scope is closed and its uninterruptible write has ended
    yield* Effect.forkDaemon(writer)

    return {
      add: (text, eventId, lines = 1) =>
        Effect.async<A, E>((resume) => {
          if (closed) return resume(Effect.fail(options.refusal(eventId)))
          // if this throws, then the caller dies, and no answer is expected
          const group = backlog.add(text, new Pending(eventId, lines, resume))
          answers.expectOne()
          if (group.size >= EAGER_BYTES) bell.ring()
          else bell.ringSoon()
        }),
      awaitAnswers: answers.all,
      close: Effect.suspend(() => {
        closed = true
        // the writer may hold the guard for the rest of the turn, and the compaction at the close needs it
        bell.ring()
        return answers.all
      })
    }
  })

/**
 * Hot path: runs the writer at once when a caller or the disk wakes it (bench/README.md#writers-scheduler). A yield
 * does nothing here, so the writer must not rely on one.
 */
const AT_ONCE: Scheduler.Scheduler = {
  shouldYield: () => false,
  scheduleTask: (task) => task()
}
