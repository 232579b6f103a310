/**
 * The parts of @effect/platform-node that every command uses. The build bundles them into this file (scripts/bundle.js):
 * the library needs none of its packages.
 */
export * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
export * as NodePath from "@effect/platform-node/NodePath"
export * as NodeRuntime from "@effect/platform-node/NodeRuntime"
export * as NodeTerminal from "@effect/platform-node/NodeTerminal"
