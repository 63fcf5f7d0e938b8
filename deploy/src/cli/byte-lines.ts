import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";

/** Lines of a byte stream with their terminators (LF or CRLF), byte for byte; the last one may have none. @throws EVENT_TOO_LARGE */
export async function* byteLines(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const lines of byteLineChunks(source)) yield* lines;
}

/** The same lines, those together that a chunk of the source completes. */
export async function* byteLineChunks(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array[]> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of source) {
    const bytes = rest.length === 0 ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength) : Buffer.concat([rest, chunk]);
    const lines: Uint8Array[] = [];
    let start = 0;
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
      lines.push(bytes.subarray(start, end + 1));
      start = end + 1;
    }
    rest = bytes.subarray(start);
    yield lines;
    if (rest.length > LIMITS.eventBytesMax) throw new TributaryError("EVENT_TOO_LARGE", "a line is longer than 1 MiB");
  }
  if (rest.length > 0) yield [rest];
}
