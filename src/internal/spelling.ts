/** Spelling: finds the known name that an unknown one was probably meant to be. */

/** The nearest known name, if one is near: spelled in another way, a part of the name, or a few slips away. */
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

/** The name without case and separators. */
export const lettersOf = (name: string): string =>
  name
    .normalize("NFKC")
    .toLowerCase()
    .replaceAll(/[^a-z\d]/g, "")

const slipsBetween = (a: string, b: string): number => distance(a, b, { swaps: false })

/** The Levenshtein distance; if `swaps`, then two swapped neighbours count as one change (Damerau). */
export const distance = (from: string, to: string, { swaps }: { readonly swaps: boolean }): number => {
  let [last, row] = [[] as Array<number>, Array.from({ length: to.length + 1 }, (_, index) => index)]
  for (let i = 1; i <= from.length; i++) {
    const next = [i]
    for (let j = 1; j <= to.length; j++) {
      const change = row[j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1)
      const isSwapped = swaps && i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, change, isSwapped ? last[j - 2]! + 1 : Infinity))
    }
    ;[last, row] = [row, next]
  }
  return row[to.length]!
}
