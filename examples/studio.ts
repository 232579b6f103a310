/** A program that audits itself, and is tested in test/studio.test.ts: see docs/testing.md. */
import { Context, Data, Effect, Option } from "effect"
import { Audit, logLogin } from "effect-audit"

export class Refused extends Data.TaggedError("Refused")<{ readonly reason: string }> {
  override get message() {
    return `the model refused: ${this.reason}`
  }
}

export class ImageModel extends Context.Tag("ImageModel")<
  ImageModel,
  { readonly generate: (prompt: string) => Effect.Effect<{ readonly path: string }, Refused> }
>() {}

/** Logs the user in and generates an image for each prompt; what the model refuses is left out. */
export const session = (
  user: { readonly userName: string; readonly deviceName: string },
  prompts: ReadonlyArray<string>
) =>
  Effect.gen(function* () {
    const model = yield* ImageModel
    yield* logLogin({})
    const images = yield* Effect.forEach(prompts, (prompt) =>
      model
        .generate(prompt)
        .pipe(
          Audit.audited({ prompt, model: "gemini-2.5-flash-image", resultPath: (image) => image.path }),
          Effect.option
        )
    )
    return images.filter(Option.isSome).map((image) => image.value.path)
  }).pipe(Audit.withActor(user))
