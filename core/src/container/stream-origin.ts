import { MalformedBytes } from "@tributary/common/format/varint";
import { LIMITS } from "@tributary/common/limits";
import { formatStreamName, isValidName, type StreamName } from "@tributary/common/names";
import { asCount, asCounts, asText } from "./wire.ts";

/** What else the MetaStore says of a stream. The container keeps it, so that a MetaStore that was lost can be had back. */
export interface StreamOrigin {
  readonly name: StreamName;
  readonly createdAtMs: number;
  /** The container of each of the stream's segments. */
  readonly containers: readonly number[];
}

/** As the end of a row: name, time of creation, and containers in runs [container, of how many segments on]*; nothing if it is not known. */
export function encodeOrigin(origin: StreamOrigin | undefined): [] | [name: string, createdAtMs: number, containers: number[]] {
  if (!origin) return [];
  const runs: number[] = [];
  for (const container of origin.containers) {
    if (runs.at(-2) === container) runs.push((runs.pop() as number) + 1);
    else runs.push(container, 1);
  }
  return [formatStreamName(origin.name), origin.createdAtMs, runs];
}

/** The inverse. @throws MalformedBytes */
export function decodeOrigin(row: readonly unknown[]): StreamOrigin | undefined {
  const [name, createdAtMs, runs] = row;
  if (name === undefined) return undefined;
  const [scope = "", stream = "", ...rest] = asText(name).split("/");
  if (!isValidName(scope) || !isValidName(stream) || rest.length > 0) throw new MalformedBytes("a stream's name is none");
  const flat = asCounts(runs, 2);
  const containers: number[] = [];
  for (let i = 0; i < flat.length; i += 2) {
    const count = flat[i + 1] as number;
    if (containers.length + count > LIMITS.segmentsPerStreamMax) throw new MalformedBytes("a stream has too many segments");
    for (let of = 0; of < count; of++) containers.push(flat[i] as number);
  }
  return { name: { scope, stream }, createdAtMs: asCount(createdAtMs), containers };
}
