/** Bytes of an object, whole or in parts that follow one another: what lies in memory in parts need not be copied to be stored. */
export type ObjectData = Uint8Array | readonly Uint8Array[];

export function partsOf(data: ObjectData): readonly Uint8Array[] {
  return data instanceof Uint8Array ? [data] : data;
}

export function lengthOf(data: ObjectData): number {
  return data instanceof Uint8Array ? data.length : data.reduce((sum, part) => sum + part.length, 0);
}

/** One array that nobody else holds. */
export function joined(data: ObjectData): Uint8Array {
  const bytes = new Uint8Array(lengthOf(data));
  let at = 0;
  for (const part of partsOf(data)) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** The parts that hold the bytes [from, to), as views. */
export function* sliced(data: ObjectData, from: number, to: number): Generator<Uint8Array> {
  let at = 0;
  for (const part of partsOf(data)) {
    const end = at + part.length;
    if (end > from) yield part.subarray(Math.max(0, from - at), Math.min(part.length, to - at));
    if (end >= to) return;
    at = end;
  }
}
