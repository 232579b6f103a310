/**
 * Child processes: no work sees what another one left in memory.
 *
 * @module
 */
import { fork } from "node:child_process"

/** The result of a module's default function, called in a new process; input and result travel as JSON. */
export const inChild = <A>(module: string, input: unknown): Promise<A> =>
  new Promise((resolve, reject) => {
    const main = new URL("childMain.js", import.meta.url)
    const child = fork(main, [module, JSON.stringify(input)])
    child.once("message", (result) => resolve(result as A))
    child.once("exit", (code) => reject(new Error(`${module} ended with ${code ?? "a signal"}`)))
  })
