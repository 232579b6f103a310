/** The findings of `doctor` and `verify`: what was checked, the result, and how to mend it. */
import { fit, type Line, paint } from "./terminal.js"

export interface Finding {
  readonly level: "ok" | "warning" | "failure"
  readonly subject: string
  /** what was found; if it is not ok, with the way to mend it */
  readonly text: string
}

export const ok = (subject: string, text: string): Finding => ({ level: "ok", subject, text })
export const warning = (subject: string, text: string): Finding => ({ level: "warning", subject, text })
export const failure = (subject: string, text: string): Finding => ({ level: "failure", subject, text })

const MARKS = {
  ok: ["green", "ok     "],
  warning: ["yellow", "warning"],
  failure: ["red", "failure"]
} as const

export const describeFinding = ({ level, subject, text }: Finding): ReadonlyArray<Line> => {
  const [colour, mark] = MARKS[level]
  return fit([paint(colour, mark), "  ", paint("bold", subject), `: ${text}`], mark.length + 2)
}
