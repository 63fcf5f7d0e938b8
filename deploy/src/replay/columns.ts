import { TributaryError } from "@tributary/common/errors";
import { parse } from "csv-parse/sync";
import { DateTime, IANAZone } from "luxon";

export interface ColumnOptions {
  readonly format: "delimited" | "ndjson";
  readonly delimiter: string;
  /** Name (of the header line or the JSON member) or position from 1 of the column that holds the routing key. */
  readonly keyColumn: string | undefined;
  /** A key for all events; the file's name if neither is given. */
  readonly key: string;
  readonly timeColumn: string | undefined;
  /** "iso", "epoch-s", "epoch-ms", "seconds" (since `timeStartMs`), or a Luxon pattern such as "dd/MM/yyyy HH:mm:ss". */
  readonly timeFormat: string;
  /** IANA zone of times that name none. */
  readonly timeZone: string;
  readonly timeStartMs: number;
}

export interface LineFacts {
  readonly key: string;
  /** undefined: the line has no time that can be read. */
  readonly timeMs: number | undefined;
}

/** Finds key and time in the lines of a recording; the lines themselves stay as they are. */
export interface ColumnReader {
  /** Takes the header line of a delimited file. @throws USAGE if a named column is not there */
  header(line: string): void;
  facts(line: string): LineFacts;
}

/** @throws USAGE */
export function createColumnReader(options: ColumnOptions): ColumnReader {
  if (!IANAZone.isValidZone(options.timeZone)) throw new TributaryError("USAGE", `--time-zone '${options.timeZone}' is not an IANA zone`);
  if (options.delimiter.length !== 1) throw new TributaryError("USAGE", "--delimiter takes one character");
  return options.format === "ndjson" ? ndjsonReader(options) : delimitedReader(options);
}

function delimitedReader(options: ColumnOptions): ColumnReader {
  let keyAt = positionOf(options.keyColumn);
  let timeAt = positionOf(options.timeColumn);
  const split = (line: string): string[] => {
    try {
      // Recordings have ragged lines: a missing column is a missing fact, not an error.
      return parse(line, { delimiter: options.delimiter, relax_column_count: true, relax_quotes: true })[0] ?? [];
    } catch {
      return [];
    }
  };
  return {
    header(line) {
      const names = split(line).map((name) => name.trim());
      const find = (flag: string, column: string | undefined, position: number | undefined) => {
        if (column === undefined || position !== undefined) return position;
        const at = names.indexOf(column);
        if (at < 0) throw new TributaryError("USAGE", `${flag} '${column}' is not in the header: ${names.join(", ").slice(0, 500)}`);
        return at;
      };
      keyAt = find("--key-column", options.keyColumn, keyAt);
      timeAt = find("--time-column", options.timeColumn, timeAt);
    },
    facts(line) {
      if (keyAt === undefined && timeAt === undefined) return { key: options.key, timeMs: undefined };
      const fields = split(line);
      const key = keyAt === undefined ? options.key : (fields[keyAt]?.trim() ?? options.key);
      return { key, timeMs: timeAt === undefined ? undefined : parseTime(fields[timeAt]?.trim() ?? "", options) };
    },
  };
}

function ndjsonReader(options: ColumnOptions): ColumnReader {
  return {
    header() {},
    facts(line) {
      let record: unknown;
      try {
        record = JSON.parse(line);
      } catch {
        return { key: options.key, timeMs: undefined };
      }
      const key = plainText(record, options.keyColumn);
      const time = plainText(record, options.timeColumn);
      return { key: key ?? options.key, timeMs: time === undefined ? undefined : parseTime(time, options) };
    },
  };
}

/** The member as text; undefined for one that is missing, null, a list or an object. */
function plainText(record: unknown, name: string | undefined): string | undefined {
  if (name === undefined || typeof record !== "object" || record === null) return undefined;
  const value: unknown = (record as Readonly<Record<string, unknown>>)[name];
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean" ? String(value) : undefined;
}

function positionOf(column: string | undefined): number | undefined {
  return column !== undefined && /^[1-9]\d{0,4}$/.test(column) ? Number(column) - 1 : undefined;
}

/** ms since 1970, or undefined. */
export function parseTime(text: string, options: Pick<ColumnOptions, "timeFormat" | "timeZone" | "timeStartMs">): number | undefined {
  if (text === "") return undefined;
  const { timeFormat, timeZone, timeStartMs } = options;
  if (timeFormat === "epoch-s" || timeFormat === "epoch-ms" || timeFormat === "seconds") {
    const number = Number(text);
    if (!Number.isFinite(number)) return undefined;
    const ms = Math.round(timeFormat === "epoch-ms" ? number : number * 1_000);
    return timeFormat === "seconds" ? timeStartMs + ms : ms;
  }
  const zone = { zone: timeZone };
  let time: DateTime;
  if (timeFormat === "iso") {
    time = DateTime.fromISO(text, zone);
    if (!time.isValid) time = DateTime.fromSQL(text, zone);
  } else time = DateTime.fromFormat(text, timeFormat, zone);
  return time.isValid ? time.toMillis() : undefined;
}
