/** Texts from anywhere, as a screen may show them: nothing in them moves a cursor, ends a line, or cannot be seen. */

/**
 * A text that may come from anybody, for a terminal: whatever could move the cursor, change the colours or turn the
 * direction of writing is shown as its code.
 */
export const visible = (text: string): string =>
  text.replace(UNSAFE, (character) => {
    const code = character.codePointAt(0)!
    if (code > 0xffff) return `\\u{${code.toString(16)}}`
    return code > 0xff
      ? `\\u${code.toString(16).padStart(4, "0")}`
      : `\\x${code.toString(16).padStart(2, "0")}`
  })

/** The same for JSON, which stays the JSON of the same value. */
export const visibleJson = (json: string): string =>
  json.replace(UNSAFE, (character) =>
    Array.from({ length: character.length }, (_, index) => {
      const unit = character.charCodeAt(index)
      return `\\u${unit.toString(16).padStart(4, "0")}`
    }).join("")
  )

// control characters (C0, DEL, C1), what formats without being seen (marks and overrides of direction, zero widths,
// tags), what else no screen shows (fillers, selectors of variants), line and paragraph separators, lone surrogates
const UNSAFE = /[\p{Cc}\p{Cf}\p{DI}\p{Zl}\p{Zp}\p{Cs}]/gu
