import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";

/** Lines of a byte stream with their terminators (LF or CRLF), byte for byte; the last one may have none. @throws EVENT_TOO_LARGE */
export async function* byteLines(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of source) {
    const bytes = rest.length === 0 ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength) : Buffer.concat([rest, chunk]);
    let start = 0;
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
      yield bytes.subarray(start, end + 1);
      start = end + 1;
    }
    rest = bytes.subarray(start);
    if (rest.length > LIMITS.eventBytesMax) throw new TributaryError("EVENT_TOO_LARGE", "a line is longer than 1 MiB");
  }
  if (rest.length > 0) yield rest;
}
