import { fuzzBytes, orCode } from "@tributary/common/testing/fuzz";
import { expect, it } from "vitest";
import { byteLines } from "../cli/byte-lines.ts";
import { type ColumnOptions, createColumnReader } from "./columns.ts";

const beside = import.meta.url;
const utf8 = (text: string) => new TextEncoder().encode(text);
const OPTIONS: ColumnOptions = {
  format: "delimited",
  delimiter: ",",
  keyColumn: "machine",
  key: "file",
  timeColumn: "at",
  timeFormat: "iso",
  timeZone: "Europe/Berlin",
  timeStartMs: 0,
};
const TIME_FORMATS = ["iso", "epoch-s", "epoch-ms", "seconds", "dd/MM/yyyy HH:mm:ss"];

async function linesOf(bytes: Uint8Array, pieceBytes: number): Promise<Uint8Array[]> {
  async function* pieces(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.slice(at, at + pieceBytes);
  }
  const lines: Uint8Array[] = [];
  for await (const line of byteLines(pieces())) lines.push(Uint8Array.from(line));
  return lines;
}

it.each(["delimited", "ndjson"] as const)("every line of a mutated recording is an event, with or without a time: %s", async (format) => {
  const seeds =
    format === "delimited"
      ? ['at,"machine",value\r\n2013-12-02 21:15:00,"press, left",1\r\n1500,b\n"open quote,2\n', "a;b\n12.5;x"]
      : ['{"machine":7,"at":1500}\n{"machine":null,"at":"2013-12-02T21:15:00Z"}\r\n{"at":[1]', '[1]\n"x"\n{}\n'];
  await fuzzBytes({
    name: `recording-${format}`,
    beside,
    seeds: seeds.map(utf8),
    run: async (bytes) => {
      const lines = await linesOf(bytes, 1 + (bytes.length % 17));
      expect(Buffer.concat(lines)).toEqual(Buffer.from(bytes));
      const timeFormat = TIME_FORMATS[bytes.length % TIME_FORMATS.length] ?? "iso";
      const [first = new Uint8Array(), ...rest] = lines;
      for (const [keyColumn, timeColumn] of [
        ["machine", "at"],
        ["2", "1"],
      ]) {
        const reader = createColumnReader({ ...OPTIONS, format, keyColumn, timeColumn, timeFormat });
        orCode(() => reader.header(Buffer.from(first).toString()), "USAGE");
        for (const line of rest.slice(0, 50)) {
          const { key, timeMs } = reader.facts(Buffer.from(line).toString());
          expect(key).toBeTypeOf("string");
          if (timeMs !== undefined) expect(Number.isFinite(timeMs)).toBe(true);
        }
      }
    },
  });
});

it("a key or a time that is a list or an object is none", () => {
  const reader = createColumnReader({ ...OPTIONS, format: "ndjson" });
  expect(reader.facts('{"machine":{"toString":1},"at":{"toString":null}}')).toEqual({ key: "file", timeMs: undefined });
});
