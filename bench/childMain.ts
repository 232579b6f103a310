/**
 * The process that child.ts starts: runs one module.
 *
 * @module
 */
const [module, input] = process.argv.slice(2)
const { default: run } = (await import(module!)) as { default: (input: unknown) => Promise<unknown> }
process.send!(await run(JSON.parse(input!)), () => process.disconnect())
