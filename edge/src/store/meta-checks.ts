import { MalformedBytes } from "@tributary/common/format/varint";
import { bytesToHex, type Id, INCARNATION_BYTES, LANES, type Lane, STREAM_ID_BYTES } from "@tributary/common/names";

// Strict readers for what CBOR gave: whatever is not as it is written is damage. A gateway must start over any log, and what
// gets past here is taken for granted everywhere else. All throw MalformedBytes.

export type Fields = Readonly<Record<string, unknown>>;

export function malformed(what: string): MalformedBytes {
  return new MalformedBytes(`malformed ${what}`);
}

/** No count comes near it, and one can be counted on from it without leaving the numbers that are exact. */
const COUNT_MAX = 2 ** 52;

export function natural(value: unknown, what: string): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) > COUNT_MAX) throw malformed(what);
  return value as number;
}

export function integer(value: unknown, what: string): number {
  if (!Number.isSafeInteger(value)) throw malformed(what);
  return value as number;
}

export function text(value: unknown, what: string): string {
  if (typeof value !== "string") throw malformed(what);
  return value;
}

export function flag(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw malformed(what);
  return value;
}

export function fields(value: unknown, what: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array) throw malformed(what);
  return value as Fields;
}

export function list<T>(value: unknown, what: string, read: (entry: unknown) => T): T[] {
  if (!Array.isArray(value)) throw malformed(what);
  return value.map(read);
}

/** A list of a fixed number of things. */
export function row(value: unknown, length: number, what: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length !== length) throw malformed(what);
  return value;
}

/** An id that is written as a byte string. */
export function idOfBytes(value: unknown, byteCount: number, what: string): Id {
  if (!(value instanceof Uint8Array) || value.length !== byteCount) throw malformed(what);
  return bytesToHex(value);
}

/** An id that is written as hex. */
export function idOfHex(value: unknown, byteCount: number, what: string): Id {
  if (typeof value !== "string" || value.length !== 2 * byteCount || !/^[0-9a-f]*$/.test(value)) throw malformed(what);
  return value;
}

export const streamIdOfHex = (value: unknown): Id => idOfHex(value, STREAM_ID_BYTES, "stream id");
export const incarnationOfHex = (value: unknown): Id => idOfHex(value, INCARNATION_BYTES, "incarnation");

/** A lane that is written as its position. */
export function laneAt(value: unknown): Lane {
  const lane = LANES[natural(value, "lane")];
  if (!lane) throw malformed("lane");
  return lane;
}

/** A lane that is written as its name. */
export function laneNamed(value: unknown): Lane {
  const lane = LANES.find((candidate) => candidate === value);
  if (!lane) throw malformed("lane");
  return lane;
}
