/** The server of @effect/platform-node, bundled like the rest of it; `serve` alone loads it. */
export { layer } from "@effect/platform-node/NodeHttpServer"
