import { createHash, timingSafeEqual } from "node:crypto";
import { CONNACK, type ConnectPacket } from "./mqtt-packet.ts";

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

/**
 * The return code for what a CONNECT says of itself. Compares digests in constant time, and both of them always, so that the time it
 * takes tells neither how much of a password was right nor whether the user exists.
 */
export function checkCredentials(expected: Credentials | undefined, connect: ConnectPacket): number {
  if (expected === undefined) return CONNACK.ACCEPTED;
  if (connect.username === undefined || connect.password === undefined) return CONNACK.NOT_AUTHORIZED;
  const user = sameSecret(connect.username, expected.username);
  const password = sameSecret(connect.password, expected.password);
  return user && password ? CONNACK.ACCEPTED : CONNACK.BAD_CREDENTIALS;
}

function sameSecret(given: string | Uint8Array, expected: string): boolean {
  return timingSafeEqual(digest(given), digest(expected));
}

function digest(secret: string | Uint8Array): Buffer {
  return createHash("sha256").update(secret).digest();
}
