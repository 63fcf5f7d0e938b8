import { Places } from "../check/places.ts";
import type { Submission as PlainSubmission } from "../check/plain.ts";
import type { ReadRecord } from "../check/submissions.ts";

/** One event that a client sent; its writer is the gateway's disk, or "core". */
export interface Submission extends PlainSubmission {
  /** Last record of the writer's log as it was sent first. */
  readonly fromSeq: number;
  attempts: number;
  lastMs: number;
  ackMs: number | undefined;
  /** The last record of the writer's log as it was acknowledged. */
  ackSeq: number | undefined;
  refused: boolean;
  /** It has to be refused, as long as the server knows why. */
  forbidden: boolean;
}

/** Records of a disk that were lost by something that its level of acknowledgement allows for. */
export interface Loss {
  readonly writer: string;
  readonly fromSeq: number;
  readonly throughSeq: number;
  readonly atMs: number;
  readonly reason: "restored from a backup" | "damaged" | "retired" | "went back";
}

/** A record as somebody read it; its id is −1 if the bytes are not those of any event that was sent. */
export interface Seen extends ReadRecord {
  readonly stream: string;
  readonly streamId: string;
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
const ID_DIGITS_MAX = 9;

/** Plain records of what was sent, acknowledged and read. */
export class Ledger {
  readonly submissions: Submission[] = [];
  readonly losses: Loss[] = [];
  readonly violations: Violation[] = [];
  readonly #nowMs: () => number;
  /** Every record ever read. */
  readonly #places = new Places();
  readonly #payloads: Uint8Array[] = [];
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
      refused: false,
      forbidden: false,
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

  acknowledge(submissions: readonly Submission[], seq: number): void {
    for (const submission of submissions) {
      submission.ackMs ??= this.#nowMs();
      submission.ackSeq ??= seq;
    }
  }

  /** Bytes that tell which event they are and whether they are whole. */
  payload(id: number, size: number): Uint8Array {
    const payload = this.#encoder.encode(payloadText(id, size));
    this.#payloads[id] = payload;
    return payload;
  }

  /** The id that the bytes carry, −1 if they are not what was sent. */
  identify(data: Uint8Array): number {
    let id = 0;
    let at = 0;
    for (; at < ID_DIGITS_MAX; at++) {
      const digit = (data[at] ?? 0) - 48;
      if (!(digit >= 0 && digit <= 9)) break;
      id = id * 10 + digit;
    }
    const sent = this.#payloads[id];
    return at > 0 && sent && Buffer.compare(sent, data) === 0 ? id : -1;
  }

  /** Invariant 3: whoever reads a place ever finds the same record. Where a log went back its ordinals are given out under other nonces. */
  noticed(seen: Seen, reader: string): void {
    const segment = `${seen.streamId} ${seen.segment} ${seen.nonce ?? ""}`;
    if (seen.id < 0 && !seen.gap) this.violate(1, "foreign bytes", `${reader} read bytes at ${segment} ${seen.ordinal} that nobody sent`);
    if (!this.#places.isSame(segment, seen.ordinal, seen.digest)) {
      this.violate(
        3,
        "changed",
        `${reader} read another record at ${segment} ${seen.ordinal} than was read before (event ${seen.id}, number ${seen.number})`,
      );
    }
  }

  readonly violate = (invariant: number, kind: string, detail: string): void => {
    if (this.violations.length < VIOLATIONS_KEPT_MAX) this.violations.push({ invariant, kind, detail, atMs: this.#nowMs() });
  };
}

function payloadText(id: number, size: number): string {
  const fill = String.fromCharCode(97 + (id % 26), 65 + ((id * 7) % 26), 48 + (id % 10));
  return `${id}:${size}:${fill.repeat(Math.ceil(size / 3)).slice(0, size)}`;
}
