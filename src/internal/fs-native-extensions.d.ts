/** The part of the package that we use; it ships no types. */
declare module "fs-native-extensions" {
  /** A kernel lock on the open file: false if another open file holds it; released when the file is closed. */
  export function tryLock(fd: number, options?: { readonly shared?: boolean }): boolean
  export function unlock(fd: number): void
}
