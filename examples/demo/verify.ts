/** The books against the evidence. */
import type { Balance } from "effect-audit"

export interface Evidence {
  /** ids of the events whose `record` had returned, as the killed process printed them */
  readonly acknowledged: ReadonlyArray<string>
  /** what the queue says */
  readonly balance: Balance
  /** ids of the rows in the database */
  readonly stored: ReadonlyArray<string>
}

/** What does not agree; empty if all is well. */
export const verify = ({ acknowledged, balance, stored }: Evidence): ReadonlyArray<string> => {
  const rows = new Set(stored)
  const lost = acknowledged.filter((id) => !rows.has(id))
  const settled = balance.delivered + balance.dead + balance.retried + balance.discarded + balance.torn
  const claims: ReadonlyArray<readonly [holds: boolean, otherwise: string]> = [
    [
      lost.length === 0,
      `${lost.length} acknowledged events are not in the database, for example ${lost[0]!}`
    ],
    [rows.size === stored.length, `${stored.length - rows.size} rows are there twice`],
    [
      balance.accepted === settled + balance.waiting,
      `accepted ${balance.accepted} is not the sum ${settled + balance.waiting}`
    ],
    [balance.missing === 0, `${balance.missing} lines are missing on disk`],
    [
      balance.delivered === stored.length,
      `delivered ${balance.delivered}, but the database has ${stored.length} rows`
    ],
    [
      balance.accepted >= acknowledged.length,
      `acknowledged ${acknowledged.length}, accepted only ${balance.accepted}`
    ]
  ]
  return claims.filter(([holds]) => !holds).map(([, otherwise]) => otherwise)
}
