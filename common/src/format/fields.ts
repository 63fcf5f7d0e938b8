import { TributaryError } from "../errors.ts";
import { type Id, isValidName, LANES, type Lane, type SegmentId, type StreamName } from "../names.ts";
import { decodeCbor } from "./cbor.ts";

// What comes from other machines and other versions: every field is looked at before it is used. All throw INVALID_REQUEST.

export type Fields = Readonly<Record<string, unknown>>;

export function decodeFields(payload: Uint8Array, bytesMax: number): Fields {
  if (payload.length > bytesMax) throw invalid(`a message of this kind has at most ${bytesMax} bytes`);
  let value: unknown;
  try {
    value = decodeCbor(payload);
  } catch (error) {
    throw new TributaryError("INVALID_REQUEST", "the message is not CBOR", {}, { cause: error });
  }
  return fieldsOf(value, "the message");
}

export function fieldsOf(value: unknown, what: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value) || value instanceof Uint8Array) {
    throw invalid(`${what} must be a map`);
  }
  return value as Fields;
}

export function items(value: unknown, countMax: number, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw invalid(`${what} must be a list`);
  if (value.length > countMax) throw invalid(`${what} may have at most ${countMax} entries`);
  return value;
}

export function list(value: unknown, countMax: number, what: string): Fields[] {
  return items(value, countMax, what).map((entry) => fieldsOf(entry, `an entry of ${what}`));
}

export function text(value: unknown, charsMax: number, what: string): string {
  if (typeof value !== "string" || value.length > charsMax) throw invalid(`${what} must be a text of at most ${charsMax} characters`);
  return value;
}

export function bytes(value: unknown, bytesMax: number, what: string): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length > bytesMax) throw invalid(`${what} must be at most ${bytesMax} bytes`);
  return value;
}

export function hex(value: unknown, byteCount: number, what: string): Id {
  if (typeof value !== "string" || value.length !== 2 * byteCount || !/^[0-9a-f]*$/.test(value)) {
    throw invalid(`${what} must have ${2 * byteCount} hex digits in lower case`);
  }
  return value;
}

export function integer(value: unknown, min: number, max: number, what: string): number {
  if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
    throw invalid(`${what} must be an integer from ${min} to ${max}`);
  }
  return value as number;
}

export function natural(value: unknown, what: string): number {
  return integer(value, 0, Number.MAX_SAFE_INTEGER, what);
}

export function flag(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw invalid(`${what} must be true or false`);
  return value;
}

/** undefined where the member is absent. */
export function optional<T>(value: unknown, read: (value: unknown) => T): T | undefined {
  return value === undefined || value === null ? undefined : read(value);
}

export function lane(value: unknown): Lane {
  const known = LANES.find((candidate) => candidate === value);
  if (!known) throw invalid("unknown lane");
  return known;
}

export function segmentId(value: unknown): SegmentId {
  const fields = fieldsOf(value, "segment");
  const part = (name: string) => natural(fields[name], name);
  return { generation: part("generation"), epoch: part("epoch"), number: part("number") };
}

export function streamNameOf(value: unknown): StreamName {
  const { scope, stream } = fieldsOf(value, "name");
  if (typeof scope !== "string" || typeof stream !== "string" || !isValidName(scope) || !isValidName(stream)) {
    throw invalid("name must have a valid scope and stream");
  }
  return { scope, stream };
}

export function invalid(message: string): TributaryError {
  return new TributaryError("INVALID_REQUEST", message);
}
