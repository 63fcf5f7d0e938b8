import { TributaryError } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import type { Random } from "./random.ts";

export interface StreamName {
  readonly scope: string;
  readonly stream: string;
}

export const DEFAULT_SCOPE = "default";

const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

/** The name with something behind it, its own end cut off where both are longer than a name may be. */
export function suffixedName({ scope, stream }: StreamName, suffix: string): StreamName {
  return { scope, stream: stream.slice(0, LIMITS.nameCharsMax - suffix.length) + suffix };
}

export function isValidName(text: string): boolean {
  return text.length <= LIMITS.nameCharsMax && NAME_PATTERN.test(text);
}

/** @throws INVALID_NAME */
export function streamName(scope: string, stream: string): StreamName {
  for (const [what, text] of [
    ["scope", scope],
    ["stream", stream],
  ] as const) {
    if (!isValidName(text)) throw new TributaryError("INVALID_NAME", `'${text.slice(0, 140)}' is not a valid ${what} name`, { what });
  }
  return { scope, stream };
}

/** "scope/stream", or "stream" alone for the scope `default`. @throws INVALID_NAME */
export function parseStreamName(text: string): StreamName {
  const slash = text.indexOf("/");
  return slash < 0 ? streamName(DEFAULT_SCOPE, text) : streamName(text.slice(0, slash), text.slice(slash + 1));
}

export function formatStreamName(name: StreamName): string {
  return `${name.scope}/${name.stream}`;
}

/** Ids (stream, writer: 16 bytes; incarnation: 8 bytes) are random and written as lower-case hex everywhere but in blocks. */
export type Id = string;

export const STREAM_ID_BYTES = 16;
export const WRITER_ID_BYTES = 16;
export const INCARNATION_BYTES = 8;

export function newId(random: Random, byteCount: number): Id {
  return bytesToHex(random.bytes(byteCount));
}

export function bytesToHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

export function hexToBytes(hex: string): Uint8Array {
  return new Uint8Array(Buffer.from(hex, "hex"));
}

/** A segment's id inside its stream: generation, epoch, number. Written "generation.epoch.number". */
export interface SegmentId {
  readonly generation: number;
  readonly epoch: number;
  readonly number: number;
}

export function formatSegmentId(id: SegmentId): string {
  return `${id.generation}.${id.epoch}.${id.number}`;
}

const SEGMENT_PATTERN = /^(\d{1,9})\.(\d{1,9})\.(\d{1,9})$/;

/** @throws INVALID_REQUEST */
export function parseSegmentId(text: string): SegmentId {
  const match = SEGMENT_PATTERN.exec(text);
  if (!match) throw new TributaryError("INVALID_REQUEST", `'${text}' is not a segment id`);
  return { generation: Number(match[1]), epoch: Number(match[2]), number: Number(match[3]) };
}

/** `live` events overtake `backlog` events; numbers are counted for each lane. */
export const LANES = ["live", "backlog"] as const;
export type Lane = (typeof LANES)[number];
