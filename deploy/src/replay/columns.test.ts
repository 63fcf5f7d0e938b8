import { hasCode } from "@tributary/common/errors";
import { describe, expect, it } from "vitest";
import { type ColumnOptions, createColumnReader, parseTime } from "./columns.ts";

const OPTIONS: ColumnOptions = {
  format: "delimited",
  delimiter: ",",
  keyColumn: undefined,
  key: "file",
  timeColumn: undefined,
  timeFormat: "iso",
  timeZone: "UTC",
  timeStartMs: 0,
};

describe("columns of a recording", () => {
  it("finds key and time by name, also behind quotes, blanks and CRLF", () => {
    const reader = createColumnReader({ ...OPTIONS, keyColumn: "machine", timeColumn: "at" });
    reader.header('at,"machine",value\r\n');
    expect(reader.facts('2013-12-02 21:15:00,"press, left",1\r\n')).toEqual({ key: "press, left", timeMs: Date.UTC(2013, 11, 2, 21, 15) });
  });

  it("gives the default key and no time for a ragged line", () => {
    const reader = createColumnReader({ ...OPTIONS, keyColumn: "3", timeColumn: "2" });
    expect(reader.facts("a\r\n")).toEqual({ key: "file", timeMs: undefined });
  });

  it("reads NDJSON members and survives broken lines", () => {
    const reader = createColumnReader({ ...OPTIONS, format: "ndjson", keyColumn: "id", timeColumn: "t", timeFormat: "epoch-ms" });
    expect(reader.facts('{"id":7,"t":1500}\n')).toEqual({ key: "7", timeMs: 1_500 });
    expect(reader.facts('{"id":7,"t":15\n')).toEqual({ key: "file", timeMs: undefined });
  });

  it("refuses a column that the header does not have", () => {
    const reader = createColumnReader({ ...OPTIONS, keyColumn: "machine" });
    try {
      reader.header("a,b\n");
      expect.unreachable();
    } catch (error) {
      expect(hasCode(error, "USAGE")).toBe(true);
    }
  });

  it("takes a zone into account where the time names none", () => {
    const zone = { timeFormat: "iso", timeZone: "America/New_York", timeStartMs: 0 };
    expect(parseTime("2014-01-01 00:00:00", zone)).toBe(Date.UTC(2014, 0, 1, 5));
    expect(parseTime("2014-01-01T00:00:00Z", zone)).toBe(Date.UTC(2014, 0, 1));
    expect(parseTime("31/12/2013 23:30", { ...zone, timeFormat: "dd/MM/yyyy HH:mm" })).toBe(Date.UTC(2014, 0, 1, 4, 30));
    expect(parseTime("12.5", { ...zone, timeFormat: "seconds", timeStartMs: 1_000 })).toBe(13_500);
  });
});
