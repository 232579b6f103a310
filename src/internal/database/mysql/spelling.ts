/** Spelling: the known name that an unknown one was probably meant to be. */

/** The nearest of the known names, if one is near: written in another way, a part of it, or a slip or two away. */
export const nearest = (name: string, known: ReadonlyArray<string>): string | undefined => {
  const given = lettersOf(name)
  const [best] = known
    .map((other) => {
      const letters = lettersOf(other)
      const isPart =
        given.length >= 3 && letters.length >= 3 && (letters.includes(given) || given.includes(letters))
      return { other, slips: isPart ? 1 : slipsBetween(given, letters) }
    })
    .filter(({ slips }) => slips <= mostSlips(given))
    .sort((a, b) => a.slips - b.slips)
  return best?.other
}

/** Whether a name is a slip of the known one. */
export const isSlipOf = (name: string, known: string): boolean =>
  name !== known && slipsBetween(lettersOf(name), lettersOf(known)) <= mostSlips(lettersOf(name))

const mostSlips = (name: string) => Math.max(1, Math.floor(name.length / 4))

/** Case and separators make no other name. */
export const lettersOf = (name: string): string =>
  name
    .normalize("NFKC")
    .toLowerCase()
    .replaceAll(/[^a-z\d]/g, "")

/** Levenshtein's distance: letters that are left out, put in or exchanged. */
const slipsBetween = (a: string, b: string): number => {
  let before = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (const [i, letter] of Array.from(a).entries()) {
    const row = [i + 1]
    for (let j = 0; j < b.length; j++) {
      row.push(Math.min(before[j + 1]! + 1, row[j]! + 1, before[j]! + (letter === b[j] ? 0 : 1)))
    }
    before = row
  }
  return before[b.length]!
}
