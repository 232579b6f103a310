/**
 * A program with an audit log, which it opens, uses and closes on command. Commands and answers are JSON, one a line;
 * logs go to stderr. auditProcess.ts is the other end.
 *
 * @module
 */
import { Effect, Either, Layer, Logger, ManagedRuntime } from "effect"
import { Audit, AuditLayer, logUse, Uploader, UploadError } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { SqliteUploader } from "effect-audit/sqlite"
import { createInterface } from "node:readline"

/** The commands. */
export type Command =
  | {
      readonly do: "open"
      readonly settings: AuditLayer.Settings
      /** The SQLite file or MySQL server for the events; without one the database is away. */
      readonly database?: string | undefined
      readonly mysql?: Pick<MysqlUploader.Options, "host" | "port" | "username" | "database"> | undefined
      /** When to begin, milliseconds since 1970, so that two processes begin together. */
      readonly at?: number
    }
  | { readonly do: "use"; readonly prompts: ReadonlyArray<string> }
  | { readonly do: "status" }
  | { readonly do: "flush" }
  | { readonly do: "close" }
  | { readonly do: "umask"; readonly mask: number }

/** The fields of a QueueLocked or QueueOpenError. */
export interface OpenFailure {
  readonly _tag: string
  readonly message: string
  readonly directory: string
  readonly pid?: number
  readonly sameProcess?: boolean
}

/** An answer; the first one comes without a command, and is the process id. */
export type Answer = { readonly value?: unknown } | { readonly error: OpenFailure }

const away = Layer.succeed(Uploader, {
  concurrency: 1,
  upload: () => new UploadError({ class: "transient", code: "ECONNREFUSED", reason: "the database is away" })
})

const logs = Logger.replace(Logger.defaultLogger, Logger.withConsoleError(Logger.logfmtLogger))

type Open = Extract<Command, { readonly do: "open" }>

const uploaderOf = ({ database, mysql }: Open) => {
  if (mysql !== undefined) return MysqlUploader.layer(mysql)
  return database === undefined ? away : SqliteUploader.layer({ filename: database })
}

const layerOf = (command: Open) =>
  AuditLayer.layer(command.settings).pipe(Layer.provide(uploaderOf(command)), Layer.provideMerge(logs))

let runtime:
  ManagedRuntime.ManagedRuntime<Layer.Layer.Success<ReturnType<typeof layerOf>>, unknown> | undefined

const carryOut = async (command: Command): Promise<Answer> => {
  switch (command.do) {
    case "open": {
      const opened = ManagedRuntime.make(layerOf(command))
      // Spins, since a timer is too coarse: two processes have to meet within a millisecond.
      while (Date.now() < (command.at ?? 0));
      const result = await Effect.runPromise(Effect.either(opened.runtimeEffect))
      if (Either.isRight(result)) {
        runtime = opened
        return {}
      }
      const { _tag, directory, message } = result.left
      const owner =
        _tag === "QueueLocked" ? { pid: result.left.pid, sameProcess: result.left.sameProcess } : {}
      return { error: { _tag, directory, message, ...owner } as OpenFailure }
    }
    case "use": {
      const uses = Effect.forEach(command.prompts, (prompt) => logUse({ prompt, status: "success" }))
      await runtime!.runPromise(uses)
      return {}
    }
    case "status":
      return { value: await runtime!.runPromise(Audit.status) }
    case "flush":
      await runtime!.runPromise(Audit.flush)
      return {}
    case "close":
      await runtime?.dispose()
      runtime = undefined
      return {}
    case "umask":
      process.umask(command.mask)
      return {}
  }
}

const answer = (value: Answer) => console.log(JSON.stringify(value))

answer({ value: process.pid })
for await (const line of createInterface({ input: process.stdin })) {
  answer(await carryOut(JSON.parse(line) as Command))
}
await runtime?.dispose()
