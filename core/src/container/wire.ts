import { MalformedBytes } from "@tributary/common/format/varint";
import { bytesToHex, type Id, type SegmentId } from "@tributary/common/names";

/** Strict readers for what CBOR gave: whatever is not as written is damage. All throw MalformedBytes. */
export function asCount(value: unknown): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw new MalformedBytes("a number is impossible");
  return value;
}

export function asText(value: unknown): string {
  if (typeof value !== "string") throw new MalformedBytes("a text is missing");
  return value;
}

export function asBoolean(value: unknown): boolean {
  if (typeof value !== "boolean") throw new MalformedBytes("a yes or no is missing");
  return value;
}

export function asBytes(value: unknown): Uint8Array {
  if (!(value instanceof Uint8Array)) throw new MalformedBytes("bytes are missing");
  return value;
}

export function asHex(value: unknown, byteCount: number): Id {
  const bytes = asBytes(value);
  if (bytes.length !== byteCount) throw new MalformedBytes("an id has a wrong length");
  return bytesToHex(bytes);
}

export function asArray(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw new MalformedBytes("a list is missing");
  return value;
}

/** A flat list of counts whose length is a multiple of `stride`. */
export function asCounts(value: unknown, stride: number): readonly number[] {
  const list = asArray(value);
  if (list.length % stride !== 0) throw new MalformedBytes("a list of numbers is cut off");
  for (const entry of list) asCount(entry);
  return list as readonly number[];
}

export function flattenSegments(segments: readonly SegmentId[]): number[] {
  return segments.flatMap((segment) => [segment.generation, segment.epoch, segment.number]);
}

export function asSegments(value: unknown): SegmentId[] {
  const flat = asCounts(value, 3);
  return Array.from({ length: flat.length / 3 }, (_, i) => ({
    generation: flat[i * 3] as number,
    epoch: flat[i * 3 + 1] as number,
    number: flat[i * 3 + 2] as number,
  }));
}
