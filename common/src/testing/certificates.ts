import "reflect-metadata";
import { webcrypto } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  BasicConstraintsExtension,
  type GeneralNameType,
  PemConverter,
  SubjectAlternativeNameExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const HOUR_MS = 3_600_000;

export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

/** Signs certificates for tests; its own is in `caFile`. */
export interface TestAuthority {
  readonly caFile: string;
  /** For 127.0.0.1 and localhost. `validMs`: from now on; negative for one that has expired. */
  issue(name: string, validMs?: number): Promise<CertificateFiles>;
}

export async function createAuthority(folder: string): Promise<TestAuthority> {
  const keys = await generateKeys();
  const authority = await X509CertificateGenerator.createSelfSigned({
    serialNumber: "01",
    name: "CN=Test authority",
    notBefore: new Date(Date.now() - 48 * HOUR_MS),
    notAfter: new Date(Date.now() + 48 * HOUR_MS),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [new BasicConstraintsExtension(true, undefined, true)],
  });
  const caFile = join(folder, "ca.pem");
  await writeFile(caFile, authority.toString("pem"));
  let serial = 1;
  return {
    caFile,
    async issue(name, validMs = 24 * HOUR_MS) {
      const own = await generateKeys();
      const certificate: X509Certificate = await X509CertificateGenerator.create({
        serialNumber: (++serial).toString(16).padStart(2, "0"),
        subject: `CN=${name}`,
        issuer: authority.subject,
        notBefore: new Date(Date.now() - 24 * HOUR_MS),
        notAfter: new Date(Date.now() + validMs),
        publicKey: own.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: ALGORITHM,
        extensions: [new SubjectAlternativeNameExtension(HOSTS)],
      });
      const files = { certFile: join(folder, `${name}.pem`), keyFile: join(folder, `${name}.key`) };
      await writeFile(files.certFile, certificate.toString("pem"));
      await writeFile(files.keyFile, PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", own.privateKey), "PRIVATE KEY"));
      return files;
    },
  };
}

const HOSTS: { type: GeneralNameType; value: string }[] = [
  { type: "ip", value: "127.0.0.1" },
  { type: "dns", value: "localhost" },
];

async function generateKeys(): Promise<CryptoKeyPair> {
  return (await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"])) as CryptoKeyPair;
}
