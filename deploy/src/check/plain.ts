import { crc32c } from "@tributary/common/checksum";

/** Plain records of what was sent, said, stored and read. The checks know nothing else of Tributary. */

/** One event or gap record as a read gives it. */
export interface PlainRecord {
  readonly segment: string;
  /** Of the take-over under which it was appended, where reads tell it. */
  readonly nonce?: string | undefined;
  readonly ordinal: number;
  readonly writer: string;
  readonly incarnation: string;
  readonly lane: string;
  readonly number: number;
  readonly key: string;
  /** Over everything that a reader gets of it. */
  readonly digest?: number | undefined;
  /** Set for a gap record: `count` of the writer's numbers from `first` to `number` in this segment are declared lost. */
  readonly gap?: { readonly first: number; readonly count: number } | undefined;
}

/** What is promised about the number of times that an event is in its stream. */
export type DeliveryPromise =
  /** Once if acknowledged; at most once in any case. */
  | "exactly-once"
  /** At least once if acknowledged; at most as often as it was sent. */
  | "at-least-once";

/** One event that a client sent, and what it was told. */
export interface Submission {
  readonly id: number;
  readonly client: string;
  /** Names the log whose level the acknowledgement has. */
  readonly writer: string;
  readonly stream: string;
  readonly key: string;
  readonly promise: DeliveryPromise;
  /** When it was sent first and last, and how often. */
  readonly firstMs: number;
  readonly lastMs: number;
  readonly attempts: number;
  /** When it was acknowledged; undefined: never. */
  readonly ackMs: number | undefined;
  /** The server said that it is not there and never will be. */
  readonly refused: boolean;
}

/** The numbers that belong together: those of one writer's incarnation in one lane. */
export function runOf({ writer, incarnation, lane }: Pick<PlainRecord, "writer" | "incarnation" | "lane">): string {
  return `${writer}/${incarnation}/${lane}`;
}

/** Takes what a check found. `invariant`: its number in the design; `count`: events concerned, 1 unless said. */
export type Violate = (invariant: number, kind: string, detail: string, count?: number) => void;

/** Over all that a reader gets of a record: what stands where, from whom, under which key, and the bytes. */
export function digestOf(record: Omit<PlainRecord, "digest">, data: Uint8Array): number {
  const { segment, ordinal, writer, incarnation, lane, number, key, gap } = record;
  const envelope = [segment, ordinal, writer, incarnation, lane, number, key, gap ? `${gap.first}+${gap.count}` : ""].join("|");
  return crc32c(data, crc32c(encoder.encode(envelope)));
}

/**
 * What must be the same whenever a place is read: the record and the nonce it has there. Where no log goes back an ordinal is never given
 * out again.
 */
export function fingerprintOf({ nonce, digest }: Pick<PlainRecord, "nonce"> & { readonly digest: number }): number {
  return nonce === undefined ? digest : crc32c(encoder.encode(nonce), digest);
}

const encoder = new TextEncoder();

/** Of what the places of a record are numbered: its segment, or its segment under one nonce where logs may have gone back. */
export function placeOf({ segment, nonce }: Pick<PlainRecord, "segment" | "nonce">, wentBack: boolean): string {
  return wentBack ? `${segment} ${nonce}` : segment;
}
