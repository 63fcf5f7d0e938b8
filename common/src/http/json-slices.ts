/**
 * Finds the parts of a JSON text in its bytes, so that they can be stored as they were written: JSON.stringify(JSON.parse(…)) would
 * change long integers, exponents and spacing. The text must have passed JSON.parse; only its shape is looked at here.
 */
export interface Slice {
  readonly start: number;
  readonly end: number;
}

const [TAB, LF, CR, SPACE, QUOTE, BACKSLASH, COMMA, COLON] = [0x09, 0x0a, 0x0d, 0x20, 0x22, 0x5c, 0x2c, 0x3a] as const;
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d] as const;

const isSpace = (byte: number | undefined): boolean => byte === SPACE || byte === LF || byte === CR || byte === TAB;

function skipSpace(bytes: Uint8Array, at: number): number {
  let next = at;
  while (isSpace(bytes[next])) next++;
  return next;
}

/** The end of the string that begins at the quote `at`. */
function stringEnd(bytes: Uint8Array, at: number): number {
  for (let i = at + 1; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === BACKSLASH) i++;
    else if (byte === QUOTE) return i + 1;
  }
  return bytes.length;
}

/** The end of the value that begins at `at`. */
function valueEnd(bytes: Uint8Array, at: number): number {
  let depth = 0;
  for (let i = at; i < bytes.length; ) {
    const byte = bytes[i];
    if (byte === QUOTE) {
      i = stringEnd(bytes, i);
      if (depth === 0) return i;
      continue;
    }
    if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) depth++;
    else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) {
      // Depth 0: the end of what a number or word stands in.
      if (depth === 0) return i;
      if (--depth === 0) return i + 1;
    } else if (depth === 0 && (byte === COMMA || isSpace(byte))) return i;
    i++;
  }
  return bytes.length;
}

/** The text without the white space around it. */
export function trimmedSlice(bytes: Uint8Array): Slice {
  const start = skipSpace(bytes, 0);
  let end = bytes.length;
  while (end > start && isSpace(bytes[end - 1])) end--;
  return { start, end };
}

/** True when the text is an array. */
export function isArrayText(bytes: Uint8Array): boolean {
  return bytes[skipSpace(bytes, 0)] === OPEN_ARRAY;
}

/** The elements of a text that is an array. */
export function elementSlices(bytes: Uint8Array): Slice[] {
  const slices: Slice[] = [];
  let at = skipSpace(bytes, skipSpace(bytes, 0) + 1);
  while (at < bytes.length && bytes[at] !== CLOSE_ARRAY) {
    const end = valueEnd(bytes, at);
    slices.push({ start: at, end });
    at = skipSpace(bytes, end);
    if (bytes[at] === COMMA) at = skipSpace(bytes, at + 1);
  }
  return slices;
}

/** The value of the last member of that name in a text that is an object; JSON.parse, too, takes the last. */
export function memberSlice(bytes: Uint8Array, name: string): Slice | undefined {
  let found: Slice | undefined;
  let at = skipSpace(bytes, skipSpace(bytes, 0) + 1);
  while (at < bytes.length && bytes[at] !== CLOSE_OBJECT) {
    const nameEnd = stringEnd(bytes, at);
    const key: unknown = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset + at, nameEnd - at).toString("utf8"));
    at = skipSpace(bytes, nameEnd);
    if (bytes[at] === COLON) at = skipSpace(bytes, at + 1);
    const end = valueEnd(bytes, at);
    if (key === name) found = { start: at, end };
    at = skipSpace(bytes, end);
    if (bytes[at] === COMMA) at = skipSpace(bytes, at + 1);
  }
  return found;
}
