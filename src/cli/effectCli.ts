/**
 * The parts of @effect/cli that the command uses. The build bundles them into this file (scripts/bundle.js), so that
 * users of the library install none of its packages.
 */
export { Args, CliConfig, Command, Options, Prompt, ValidationError } from "@effect/cli"
