/**
 * A process that only imports the library: its peak memory, MiB.
 *
 * @module
 */
import "effect-audit"
import "effect-audit/mysql"

export default async (): Promise<number> => process.resourceUsage().maxRSS / 1024
