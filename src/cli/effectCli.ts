/**
 * The parts of @effect/cli that the command uses. The build bundles them into this file (scripts/bundle.js), so that
 * users of the library install none of its packages.
 */
export {
  Args,
  CliConfig,
  Command,
  CommandDescriptor,
  HelpDoc,
  Options,
  Prompt,
  Span,
  Usage,
  ValidationError
} from "@effect/cli"
