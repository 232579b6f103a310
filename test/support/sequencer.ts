/**
 * The order of test files: the slowest begin first, so that the run does not end with one of them. Vitest knows the
 * durations only from the cache of an earlier run, which a fresh clone lacks.
 *
 * @module
 */
import type { TestSpecification } from "vitest/node"
import { BaseSequencer } from "vitest/node"

/** The files above ten seconds on two cores, the slowest first. */
const LONGEST = [
  "process/owners.slow",
  "cli/screens.slow",
  "database/mysql",
  "database/values.slow",
  "process/process.slow",
  "cli/cli",
  "docs/install.slow",
  "database/migrateTables.slow",
  "proof/prove.slow",
  "docs/package.slow",
  "queue/adoptionCrash.slow",
  "queue/powerLoss",
  "database/refusals.slow",
  "process/crash.slow",
  "queue/removed.slow",
  "cli/delivered.slow",
  "process/kill",
  "queue/requests.slow",
  "database/hungServer.slow",
  "delivery/defects.slow",
  "database/members.slow",
  "database/reasons.slow",
  "cli/page.slow",
  "docs/demo.slow",
  "database/lookup.slow",
  "proof/delivery",
  "database/trail.slow",
  "database/ownKeys.slow",
  "proof/goingOn.slow",
  "queue/bits.slow",
  "database/tls",
  "cli/usage.slow",
  "proof/permit.slow",
  "database/badPeers.slow",
  "cli/serve",
  "queue/damage",
  "delivery/scheduler",
  "queue/lock",
  "proof/asked.slow",
  "delivery/exactlyOnce",
  "database/fullServer.slow",
  "docs/examples",
  "queue/letterHeads",
  "queue/adoption",
  "support/mysqlServer.slow",
  "docs/apiExamples",
  "queue/housekeeping",
  "database/trail.contract",
  "database/activity",
  "delivery/clock"
]

const rank = ({ moduleId }: TestSpecification): number => {
  const place = LONGEST.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`))
  return place < 0 ? LONGEST.length : place
}

export class LongestFirst extends BaseSequencer {
  override async sort(files: Array<TestSpecification>): Promise<Array<TestSpecification>> {
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b))
  }
}
