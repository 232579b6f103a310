import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import type { FailureClass, Subject } from "../../src/internal/database/mysql/errors.js"
import {
  classify,
  CODES,
  endsConnection,
  isBusy,
  toUploadError
} from "../../src/internal/database/mysql/errors.js"

const subject: Subject = {
  host: "db1:3306",
  username: "audit",
  database: "app",
  table: "use_log",
  columns: ["event_id", "prompt"],
  eventKeys: ["effect_audit_event_id", "PRIMARY"]
}

/** An error as mysql2 makes it; its name is wrong on purpose, since nothing may rely on it. */
const serverError = (errno: number, sqlMessage = "Data too long: 'the prompt of a user'") =>
  Object.assign(new Error(sqlMessage), {
    errno,
    code: "ER_SOMETHING_ELSE",
    sqlState: "HY000",
    sqlMessage,
    sql: "INSERT"
  })

/** An error as Node makes it. */
const systemError = (code: string, errno: number | null = -111) =>
  Object.assign(new Error(`connect ${code} 10.0.0.5:3306`), errno === null ? { code } : { code, errno })

const codes: Record<Exclude<FailureClass, "delivered">, ReadonlyArray<number>> = {
  busy: [1205, 1213, 1614],
  transient: [
    1015, 1021, 1036, 1037, 1040, 1041, 1047, 1053, 1114, 1135, 1152, 1158, 1159, 1160, 1161, 1180, 1203,
    1226, 1290, 1317, 1461, 1637, 1792, 1836, 1927, 1969, 2006, 2013, 3024, 3032, 3100, 3101, 4031, 8002,
    8005, 8022, 8027, 8028, 8120, 8229, 9001, 9002, 9003, 9004, 9005, 9007, 9008
  ],
  operator: [
    167, 1044, 1045, 1049, 1054, 1064, 1129, 1130, 1142, 1143, 1146, 1227, 1305, 1348, 1356, 1364, 1442, 1449,
    1467, 1471, 1524, 1526, 1698, 1785, 1814, 1820, 1862, 1874, 1906, 3098, 3105, 3118, 3159, 3955, 3989,
    4151, 8059
  ],
  record: [
    1048, 1118, 1153, 1216, 1264, 1265, 1292, 1300, 1301, 1365, 1366, 1369, 1406, 1411, 1416, 1441, 1452,
    1525, 1643, 1644, 1690, 1713, 1958, 1977, 3033, 3037, 3055, 3070, 3071, 3072, 3073, 3140, 3141, 3144,
    3150, 3151, 3155, 3156, 3157, 3158, 3516, 3548, 3616, 3617, 3643, 3673, 3731, 3732, 3751, 3752, 3819,
    3854, 3903, 3904, 3905, 3906, 3907, 3908, 3966, 3967, 3988, 4025, 4035, 4036, 4037, 4038, 4039, 4040,
    4048, 4049, 4050, 4076, 6136, 6527, 8025
  ],
  doubtful: [
    1139, 1172, 1242, 1329, 1339, 3057, 3143, 3149, 3154, 3165, 3685, 3686, 3688, 3689, 3690, 3691, 3692,
    3693, 3694, 3695, 3696, 3697, 3698, 3699, 3700, 4041, 4042, 4043, 4163
  ],
  unknown: [1105],
  tooMany: [1197, 1390, 4082, 8004, 9500]
}

describe("classes of failure", () => {
  for (const [cls, numbers] of Object.entries(codes)) {
    it(`${cls}: ${numbers.length} codes`, () => {
      for (const errno of numbers) {
        const failure = classify(serverError(errno), subject)
        assert.strictEqual(failure.class, cls as FailureClass, String(errno))
        assert.strictEqual(failure.code, String(errno))
        assert.strictEqual(isBusy(failure), cls === "busy")
        assert.strictEqual(endsConnection(failure), [1153, 2006, 2013].includes(errno))
      }
    })
  }

  it("the classes above cover all codes", () => {
    assert.deepStrictEqual(
      [...CODES.keys()].toSorted((a, b) => a - b),
      Object.values(codes)
        .flat()
        .toSorted((a, b) => a - b)
    )
  })

  it("an unknown code is classified by its SQLSTATE, and shown", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 10_000, max: 65_535 }),
        fc.constantFrom(
          "HY000",
          "21000",
          "22001",
          "23000",
          "44000",
          "45000",
          "45Z01",
          "28000",
          "42S99",
          "08S01",
          "40001"
        ),
        (errno, sqlState) => {
          const failure = classify(Object.assign(serverError(errno), { sqlState }), subject)
          const expected: Record<string, FailureClass> = {
            "22": "doubtful",
            "23": "doubtful",
            "44": "doubtful",
            "45": "record",
            "28": "operator",
            "42": "operator",
            "08": "transient",
            "40": "busy"
          }
          assert.strictEqual(failure.class, expected[sqlState.slice(0, 2)] ?? "unknown")
          assert.strictEqual(toUploadError(failure).code, String(errno))
        }
      )
    )
    assert.strictEqual(classify(undefined, subject).class, "transient")
  })

  it("the SQLSTATE of a SIGNAL blames the row, whatever the number", () => {
    for (const errno of [1, 1205, 1142, 31_001]) {
      assert.strictEqual(classify({ errno, sqlState: "45000", sqlMessage: "no" }, subject).class, "record")
    }
  })

  it("connection errors are classified by the code, with or without a number", () => {
    const network = [
      "ECONNREFUSED",
      "ECONNRESET",
      "ETIMEDOUT",
      "EPIPE",
      "ENOTFOUND",
      "EAI_AGAIN",
      "EHOSTUNREACH"
    ]
    for (const code of [...network, "PROTOCOL_CONNECTION_LOST", "PROTOCOL_SEQUENCE_TIMEOUT", "ESOMETHING"]) {
      for (const error of [systemError(code), systemError(code, null)]) {
        const failure = classify(error, subject)
        assert.deepStrictEqual([failure.class, failure.code], ["transient", code])
      }
    }
    const closed = classify(Object.assign(new Error("closed"), { fatal: true }), subject)
    assert.deepStrictEqual([closed.class, closed.code], ["transient", "CONNECTION_LOST"])
  })

  it("a peer that does not speak the protocol gives one code, and the reason names host and port", () => {
    const unknown = (code: string) => systemError(code, null)
    for (const error of [
      unknown("PROTOCOL_UNEXPECTED_PACKET"),
      unknown("HANDSHAKE_UNKNOWN_ERROR"),
      unknown("ERR_OUT_OF_RANGE"),
      new TypeError("Cannot read properties of undefined"),
      new RangeError("Invalid array length")
    ]) {
      const failure = classify(error, subject)
      assert.deepStrictEqual([failure.class, failure.code], ["transient", "PROTOCOL_ERROR"])
      assert.include(failure.reason, "What answers at db1:3306 does not speak MySQL's protocol")
    }
    // not that answer, but a connection on which TLS broke
    assert.strictEqual(
      classify(unknown("ERR_SSL_DECRYPTION_FAILED"), subject).code,
      "ERR_SSL_DECRYPTION_FAILED"
    )
  })

  it("TLS errors need an operator, unless the connection broke", () => {
    for (const code of ["HANDSHAKE_SSL_ERROR", "HANDSHAKE_NO_SSL_SUPPORT", "AUTH_SWITCH_PLUGIN_ERROR"]) {
      const failure = classify(systemError(code, null), subject)
      assert.deepStrictEqual([failure.class, failure.code], ["operator", code])
    }
    const reset = classify(systemError("HANDSHAKE_SSL_ERROR", -104), subject)
    assert.deepStrictEqual([reset.class, reset.code], ["transient", "ECONNRESET"])
    const ended = "Client network socket disconnected before secure TLS connection was established"
    const error = Object.assign(new Error(ended), { code: "HANDSHAKE_SSL_ERROR" })
    assert.strictEqual(classify(error, subject).class, "transient")
  })

  it("1062 means delivered for our key, in MariaDB and MySQL 8, and needs an operator for another key", () => {
    const classOf = (message: string) => classify(serverError(1062, message), subject).class
    for (const key of [
      "effect_audit_event_id",
      "use_log.effect_audit_event_id",
      "PRIMARY",
      "use_log.PRIMARY",
      // as with lower_case_table_names = 2 and 1
      "Use_Log.effect_audit_event_id"
    ]) {
      assert.strictEqual(classOf(`Duplicate entry '\\x01\\x93o' for key '${key}'`), "delivered")
    }
    for (const message of [
      "Duplicate entry 'li' for key 'user_name'",
      "Duplicate entry 'li' for key 'other.effect_audit_event_id'",
      // a value that looks like the message's end
      "Duplicate entry 'x for key 'effect_audit_event_id'' for key 'user_name'",
      // other languages put the key elsewhere, so sessions set lc_messages
      "Doublon dans une entr\u00e9e : 'x' pour la clef 'effect_audit_event_id'"
    ]) {
      assert.strictEqual(classOf(message), "operator", message)
    }
    const { eventKeys: _, ...withoutKeys } = subject
    assert.strictEqual(classify(serverError(1062, "x for key 'PRIMARY'"), withoutKeys).class, "operator")
  })

  it("a reason fits the purpose of the statement", () => {
    const connecting = { host: "db1:3306", username: "audit", database: "app" }
    const causes = [
      ...[...codes.operator, ...codes.transient, ...codes.busy, 4711].map((errno) => serverError(errno)),
      ...["ECONNREFUSED", "ENOTFOUND", "ETIMEDOUT", "PROTOCOL_ERROR"].map((code) => systemError(code))
    ]
    for (const purpose of ["read", "prove", "migrate"] as const)
      for (const cause of causes) {
        const { class: cls, reason } = classify(cause, { ...connecting, purpose })
        assert.notInclude(reason, "tried again")
        if (cls === "transient") assert.include(reason, `${purpose} again`)
        if (purpose !== "migrate") assert.notMatch(reason, /insert|take events/i)
      }
    assert.include(classify(serverError(1044), { ...connecting, purpose: "read" }).reason, "GRANT SELECT")
    assert.include(classify(serverError(1044), connecting).reason, "GRANT INSERT")
  })

  it("a reason says what to do, and never quotes the database", () => {
    for (const errno of [...codes.operator, ...codes.transient, ...codes.busy, 1062, 4711]) {
      const error = toUploadError(classify(serverError(errno), subject))
      assert.notInclude(error.message, "the prompt of a user")
      assert.include(error.message, `(${errno})`)
      assert.isAbove(error.reason.length, 30)
    }
    const reasonOf = (errno: number, message: string) =>
      toUploadError(classify(serverError(errno, message), subject)).reason
    assert.include(reasonOf(1146, "Table 'app.use_log' doesn't exist"), "effect-audit migrate")
    assert.include(reasonOf(1054, "Unknown column 'event_id' in 'field list'"), "effect-audit migrate")
    assert.include(
      reasonOf(1142, "INSERT command denied to user 'audit'@'h' for table 'use_log'"),
      "GRANT INSERT"
    )
    for (const command of ["SELECT", "INSERT"]) {
      const denied = `${command} command denied to user 'audit'@'h' for table \`app\`.\`effect_audit_seal\``
      const reason = reasonOf(1142, denied)
      assert.include(reason, `${command} on effect_audit_seal: GRANT SELECT, INSERT`)
      assert.notInclude(reason, "definer")
    }
    // Something behind the table is at fault: the reason names it, not our account or migrate.
    for (const [errno, message, named] of [
      [1146, "Table 'app.copies' doesn't exist", "app.copies"],
      [1054, "Unknown column 'nobodys' in 'field list'", "nobodys"],
      [1142, "TRIGGER command denied to user 'definer'@'%' for table 'use_log'", "TRIGGER"],
      [1142, "INSERT command denied to user 'audit'@'h' for table `app`.`copies`", "copies"],
      [1305, "FUNCTION app.gone does not exist", "app.gone"],
      [1356, "View 'app.v' references invalid table(s) or column(s)", "app.v"],
      [1449, "The user specified as a definer ('gone'@'%') does not exist", "gone"]
    ] as const) {
      const reason = reasonOf(errno, message)
      assert.include(reason, named)
      assert.notInclude(reason, "effect-audit migrate")
      assert.notInclude(reason, "GRANT INSERT")
    }
    assert.include(reasonOf(1045, "Access denied for user 'gone'@'%'"), "definer")
    const connecting = { host: "db1:3306", username: "audit", database: "app" }
    assert.include(classify(serverError(1045), connecting).reason, "password")
    const counting = { ...subject, eventKeys: ["effect_audit_event_id"], counter: "id" }
    assert.include(
      classify(serverError(1062, "Duplicate entry '127' for key 'use_log.PRIMARY'"), counting).reason,
      "widen id"
    )
  })
})
