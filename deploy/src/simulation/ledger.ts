import { hashText } from "./dice.ts";

/** What is promised about the number of times that an event is in its stream. */
export type DeliveryPromise =
  /** Once if acknowledged; at most once in any case. */
  | "exactly-once"
  /** At least once if acknowledged; at most as often as it was sent. */
  | "at-least-once";

/** One event that a client sent. */
export interface Submission {
  readonly id: number;
  readonly client: string;
  /** The gateway's disk, or "core". */
  readonly writer: string;
  readonly stream: string;
  readonly key: string;
  readonly promise: DeliveryPromise;
  readonly firstMs: number;
  /** Last record of the writer's log as it was sent first. */
  readonly fromSeq: number;
  attempts: number;
  /** When it was sent last. */
  lastMs: number;
  /** When the server said that it is durable, and the last record of its log then. */
  ackMs: number | undefined;
  ackSeq: number | undefined;
  /** It was acknowledged as something that the server had already. */
  knownBefore: boolean;
  /** The server said that it is not there and never will be. */
  refused: boolean;
}

/** Records of a disk that were lost by something that its level of acknowledgement allows for. */
export interface Loss {
  readonly writer: string;
  readonly fromSeq: number;
  readonly throughSeq: number;
  readonly atMs: number;
  readonly reason: "restored from a backup" | "damaged" | "retired";
}

/** A record as somebody read it. */
export interface Seen {
  readonly stream: string;
  readonly streamId: string;
  readonly segment: string;
  readonly ordinal: number;
  readonly writer: string;
  readonly incarnation: string;
  readonly lane: string;
  readonly number: number;
  readonly key: string;
  readonly gap: { readonly first: number; readonly count: number } | undefined;
  /** The event's id, −1 if the bytes are not those of any event that was sent. */
  readonly id: number;
  readonly digest: number;
}

export interface Violation {
  /** Number of the invariant in the design; 0: the world came to no rest, or the program itself noticed a defect. */
  readonly invariant: number;
  readonly kind: string;
  readonly detail: string;
  readonly atMs: number;
}

const VIOLATIONS_KEPT_MAX = 50;

/** Plain records of what was sent, acknowledged and read. */
export class Ledger {
  readonly submissions: Submission[] = [];
  readonly losses: Loss[] = [];
  readonly violations: Violation[] = [];
  readonly #nowMs: () => number;
  /** Every record ever read, by stream id, segment and ordinal. */
  readonly #seen = new Map<string, number>();
  readonly #encoder = new TextEncoder();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  submit(of: Pick<Submission, "client" | "writer" | "stream" | "key" | "promise" | "fromSeq">): Submission {
    const submission: Submission = {
      ...of,
      id: this.submissions.length,
      firstMs: this.#nowMs(),
      attempts: 0,
      lastMs: this.#nowMs(),
      ackMs: undefined,
      ackSeq: undefined,
      knownBefore: false,
      refused: false,
    };
    this.submissions.push(submission);
    return submission;
  }

  /** To be called each time that they are sent. */
  sent(submissions: readonly Submission[]): void {
    for (const submission of submissions) {
      submission.attempts++;
      submission.lastMs = this.#nowMs();
    }
  }

  acknowledge(submissions: readonly Submission[], seq: number, knownBefore = false): void {
    for (const submission of submissions) {
      if (submission.ackMs === undefined) submission.knownBefore = knownBefore;
      submission.ackMs ??= this.#nowMs();
      submission.ackSeq ??= seq;
    }
  }

  /** Bytes that tell which event they are and whether they are whole. */
  payload(id: number, size: number): Uint8Array {
    return this.#encoder.encode(payloadText(id, size));
  }

  /** The id that the bytes carry, −1 if they are not what was sent. */
  identify(data: Uint8Array): number {
    const text = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("latin1");
    const [id, size] = text.split(":", 2).map(Number);
    if (id === undefined || size === undefined || !(id < this.submissions.length)) return -1;
    return payloadText(id, size) === text ? id : -1;
  }

  /** Invariant 3: whoever reads a place ever finds the same record. */
  noticed(seen: Seen, reader: string): void {
    if (seen.id < 0 && !seen.gap) this.violate(1, "foreign bytes", `${reader} read bytes at ${place(seen)} that nobody sent`);
    const before = this.#seen.get(place(seen));
    if (before === undefined) this.#seen.set(place(seen), seen.digest);
    else if (before !== seen.digest) {
      this.violate(
        3,
        "changed",
        `${reader} read another record at ${place(seen)} than was read before (event ${seen.id}, number ${seen.number})`,
      );
    }
  }

  /** A gateway was set back: what it numbers anew is not what it numbered before. */
  forgetPlaces(streamIdPrefix: string): void {
    for (const key of this.#seen.keys()) if (key.startsWith(streamIdPrefix)) this.#seen.delete(key);
  }

  violate(invariant: number, kind: string, detail: string): void {
    if (this.violations.length < VIOLATIONS_KEPT_MAX) this.violations.push({ invariant, kind, detail, atMs: this.#nowMs() });
  }
}

function place(seen: Seen): string {
  return `${seen.streamId} ${seen.segment} ${seen.ordinal}`;
}

function payloadText(id: number, size: number): string {
  const fill = String.fromCharCode(97 + (id % 26), 65 + ((id * 7) % 26), 48 + (id % 10));
  return `${id}:${size}:${fill.repeat(Math.ceil(size / 3)).slice(0, size)}`;
}

export function digestOf(seen: Omit<Seen, "digest" | "stream" | "streamId">): number {
  const { segment, ordinal, writer, incarnation, lane, number, key, gap, id } = seen;
  return hashText([segment, ordinal, writer, incarnation, lane, number, key, gap ? `${gap.first}+${gap.count}` : "", id].join("|"));
}
