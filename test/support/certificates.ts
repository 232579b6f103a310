/** Certificates for servers, made by openssl. */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"

export interface Certificates {
  readonly directory: string
  readonly authority: string
  readonly stranger: string
  readonly certificate: string
  readonly key: string
}

/** An authority, a server's certificate from it for the name and addresses, and an authority that signed nothing. */
export const makeCertificates = async (
  name: string,
  addresses: ReadonlyArray<string> = []
): Promise<Certificates> => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "audit-tls-"))
  fs.chmodSync(directory, 0o755)
  const file = (of: string) => path.join(directory, of)
  const openssl = (...args: ReadonlyArray<string>) => promisify(execFile)("openssl", args)
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
  for (const who of ["authority", "stranger"]) {
    await openssl(
      "req",
      "-x509",
      ...key,
      "-keyout",
      file(`${who}.key`),
      "-out",
      file(`${who}.pem`),
      "-subj",
      `/CN=${who}`
    )
  }
  await openssl(
    "req",
    ...key,
    "-keyout",
    file("server.key"),
    "-out",
    file("server.csr"),
    "-subj",
    `/CN=${name}`
  )
  fs.writeFileSync(
    file("names"),
    ["subjectAltName=DNS:" + name, ...addresses.map((address) => `IP:${address}`)].join(",")
  )
  await openssl(
    ...[
      "x509",
      "-req",
      "-in",
      file("server.csr"),
      "-CA",
      file("authority.pem"),
      "-CAkey",
      file("authority.key")
    ],
    ...["-CAcreateserial", "-extfile", file("names"), "-out", file("server.pem")]
  )
  fs.chmodSync(file("server.key"), 0o644)
  return {
    directory,
    authority: file("authority.pem"),
    stranger: file("stranger.pem"),
    certificate: file("server.pem"),
    key: file("server.key")
  }
}
