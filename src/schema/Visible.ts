/** Visible texts: escapes everything that a terminal would obey or hide. */

/**
 * A text from anybody, for a terminal. Characters that move the cursor, change colours or directions, or are invisible
 * become their codes.
 */
export const visible = (text: string): string =>
  text.replace(UNSAFE, (character) => {
    const code = character.codePointAt(0)!
    if (code > 0xffff) return `\\u{${code.toString(16)}}`
    return code > 0xff
      ? `\\u${code.toString(16).padStart(4, "0")}`
      : `\\x${code.toString(16).padStart(2, "0")}`
  })

/** The same for JSON, which still means the same value. */
export const visibleJson = (json: string): string =>
  json.replace(UNSAFE, (character) =>
    Array.from({ length: character.length }, (_, index) => {
      const unit = character.charCodeAt(index)
      return `\\u${unit.toString(16).padStart(4, "0")}`
    }).join("")
  )

// control characters (C0, DEL, C1), invisible format characters (directions, zero widths, tags), other invisible ones
// (fillers, variation selectors), line and paragraph separators, lone surrogates
const UNSAFE = /[\p{Cc}\p{Cf}\p{DI}\p{Zl}\p{Zp}\p{Cs}]/gu
