/**
 * Helpers for tests of adoption: the lines that the Python class left, and a program that adopts them.
 *
 * @module
 */
import { Effect } from "effect"
import * as path from "node:path"
import type { AuditLayer } from "../../src/index.js"
import { type Disk, DiskError } from "../../src/services/Disk.js"
import { openAudit } from "./auditHere.js"
import { queueFile } from "./reference.js"

/** The lines of the old file. */
export const LINES = queueFile.trimEnd().split("\n")

/** A line that the old program writes later. */
export const LATER = '{"kind":"login_log","ts":"2026-01-01T00:00:00","user_name":"later"}\n'

/** A line, without the spaces that Python writes. */
export const normal = (line: string) => JSON.stringify(JSON.parse(line))

/** Opens the audit log, delivers everything and closes it. */
export const deliver = (
  settings: AuditLayer.Settings,
  options: Parameters<typeof openAudit>[1] & { readonly uploader: object }
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { flush, status } = yield* openAudit(settings, options)
      yield* flush
      return yield* status
    })
  )

/** A disk whose directories are on different file systems. */
export const acrossFileSystems =
  (real: Disk["Type"]): Disk["Type"]["rename"] =>
  (from, to) =>
    path.dirname(from) === path.dirname(to)
      ? real.rename(from, to)
      : new DiskError({ operation: "rename", path: from, code: "EXDEV", cause: undefined })
