/** A morning in a studio: who logs in, and what they ask of the models. */
import type { LoginLogInput, UseLogInput } from "effect-audit"

export type DemoEvent =
  | { readonly kind: "login"; readonly input: LoginLogInput }
  | { readonly kind: "use"; readonly input: UseLogInput }

const USERS = ["李雷", "韩梅梅", "王小明", "Zoë", "Jürgen", "佐藤さくら", "Ana María", "O'Brien"]
const DEVICES = ["studio-1", "studio-2", "studio-3", "会议室的平板", "家里的电脑"]
const PROMPTS = [
  "一只在雨中奔跑的红狐狸 🦊，水彩风格",
  "a red fox in the snow, golden hour, 35 mm",
  "把背景换成西湖的黄昏 🌇",
  'a poster that says "Grand Opening", art déco',
  "全家福：爷爷、奶奶和三只猫 👨‍👩‍👧‍👦🐱🐱🐱",
  "第一行：山\n第二行：水\n第三行：云 ☁️",
  "product shot of a teapot; white background; no shadow",
  "夜里的火锅店，蒸汽，霓虹灯 🍲✨",
  "logo for “Café Ñandú”, flat, two colours"
]
const MODELS = ["gemini-2.5-flash-image", "imagen-4", "seedream-4"]

const pick = <A>(from: ReadonlyArray<A>, index: number): A => from[index % from.length]!

/** The same events at each run. */
export const events = (count: number): ReadonlyArray<DemoEvent> =>
  Array.from({ length: count }, (_, index): DemoEvent => {
    const who = { userName: pick(USERS, index * 7), deviceName: pick(DEVICES, index * 3) }
    if (index % 8 === 0) {
      return {
        kind: "login",
        input: { ...who, localIp: `10.0.0.${index % 250}`, publicIp: "203.0.113.7" }
      }
    }
    const failed = index % 23 === 0
    return {
      kind: "use",
      input: {
        ...who,
        prompt: pick(PROMPTS, index),
        model: pick(MODELS, index),
        durationMs: 900 + ((index * 397) % 4100),
        ...(failed
          ? { status: "failed", errorMessage: "配额已用完 (429)" }
          : { status: "success", resultPath: `out/${index}.png`, finishReason: "STOP" })
      }
    }
  })
