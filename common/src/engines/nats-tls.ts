import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { TributaryError } from "../errors.ts";

/** Paths of PEM files. They are read anew at each connection, so that renewed ones count without a restart. */
export interface NatsTlsFiles {
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}

/** Finds out at the start what would only show as handshakes that fail. @throws CONFIG_INVALID */
export function checkTlsFiles({ caFile, certFile, keyFile }: NatsTlsFiles): void {
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new TributaryError("CONFIG_INVALID", "nats.tls.cert and nats.tls.key belong together: set both or none");
  }
  for (const [setting, path] of Object.entries({ "nats.tls.ca": caFile, "nats.tls.cert": certFile, "nats.tls.key": keyFile })) {
    if (path === undefined) continue;
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      throw new TributaryError("CONFIG_INVALID", `${setting}: ${path} cannot be read`, { setting }, { cause: error });
    }
    if (!text.includes("-----BEGIN ")) throw new TributaryError("CONFIG_INVALID", `${setting}: ${path} is no PEM file`, { setting });
  }
}

/** Why servers will refuse our certificate, as far as it can be told from here; undefined if nothing is wrong with it. */
export function certificateProblem(files: NatsTlsFiles | undefined, nowMs: number): string | undefined {
  if (files?.certFile === undefined) return undefined;
  try {
    const { validFrom, validTo } = new X509Certificate(readFileSync(files.certFile));
    if (nowMs > Date.parse(validTo)) return `the certificate ${files.certFile} expired at ${new Date(validTo).toISOString()}; renew it`;
    if (nowMs < Date.parse(validFrom)) {
      return `the certificate ${files.certFile} is valid only from ${new Date(validFrom).toISOString()}; is this machine's clock right?`;
    }
    return undefined;
  } catch (error) {
    return `the certificate ${files.certFile} cannot be read: ${error instanceof Error ? error.message : error}`;
  }
}
