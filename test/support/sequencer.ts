/**
 * The files that take longest begin first, so that the end of a run does not wait for one of them. Vitest knows that
 * only from its own cache of an earlier run, which a fresh clone lacks.
 *
 * @module
 */
import type { TestSpecification } from "vitest/node"
import { BaseSequencer } from "vitest/node"

/** Those above ten seconds on two cores, the longest first. */
const LONGEST = [
  "process/owners",
  "docs/install",
  "database/mysql",
  "cli/screens",
  "database/values",
  "database/migrateTables",
  "cli/cli",
  "queue/powerLoss",
  "docs/package",
  "process/process",
  "process/crash",
  "database/hungServer",
  "queue/adoption",
  "support/mysqlServer",
  "database/badPeers",
  "process/kill",
  "docs/demo",
  "delivery/defects",
  "database/tls",
  "database/lookup",
  "database/fullServer",
  "database/accounts",
  "delivery/clock",
  "delivery/scheduler",
  "docs/apiExamples",
  "docs/examples",
  "queue/lock",
  "queue/damage",
  "queue/bits",
  "cli/serve"
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
