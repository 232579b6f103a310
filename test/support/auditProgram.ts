/**
 * A process with an audit log, that opens, uses and closes it when it is told to. One command a line, one answer a
 * line, both JSON; its logs go to stderr. auditProcess.ts holds the other end.
 *
 * @module
 */
import { Effect, Either, Layer, Logger, ManagedRuntime } from "effect"
import { Audit, AuditLayer, logUse, Uploader, UploadError } from "effect-audit"
import { MysqlUploader } from "effect-audit/mysql"
import { SqliteUploader } from "effect-audit/sqlite"
import { createInterface } from "node:readline"

/** What the process can be told to do. */
export type Command =
  | {
      readonly do: "open"
      readonly settings: AuditLayer.Settings
      /** the SQLite file, or the MySQL server, that takes the events; without one the database is away */
      readonly database?: string | undefined
      readonly mysql?: Pick<MysqlUploader.Options, "host" | "port" | "username" | "database"> | undefined
      /** when to begin, milliseconds since 1970: for two that begin together */
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

/** What comes back; the first of all, not asked for, is the process's id. */
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
      // a timer is too coarse: two processes are to meet within a millisecond
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
