/**
 * Which stored frames count (rule C2). One pure decision, used alike by the owner, replay and verification.
 */

/** What a stored frame says about itself. */
export interface FrameHead {
  readonly kind: FrameKind;
  readonly container: number;
  readonly epoch: number;
  readonly attempt: number;
  /** Number of the frame in its attempt; the fence has 0. */
  readonly number: number;
  /** Hash of the counting frame before it. */
  readonly previousHash: string;
}

/** Persisted. 4 to 7 are reserved for transactions. */
export const FRAME_KIND = { operations: 1, fence: 2, checkpoint: 3 } as const;
export type FrameKind = (typeof FRAME_KIND)[keyof typeof FRAME_KIND];

/** The newest counting frame; what comes after is judged by it. */
export interface WalPosition {
  readonly seq: number;
  readonly epoch: number;
  readonly attempt: number;
  readonly number: number;
  readonly hash: string;
}

/** Before the first frame of a log. */
export const WAL_START: WalPosition = { seq: 0, epoch: 0, attempt: 0, number: 0, hash: "0".repeat(32) };

export type Verdict = "counts" | "void" | "corrupt";

/**
 * - Of an earlier (epoch, attempt): void. A deposed owner's frame that still matched its predicted sequence.
 * - Of a later one: it must be the fence, and chained to the last counting frame; its owner had read everything before it.
 * - Of the same one: the next number, chained to the last counting frame.
 * - Of the same one, but with numbers missing whose places void frames took: void as well. Its owner's pipeline was broken by
 *   those frames, so the owner neither acknowledged it nor went on in this attempt.
 * Anything else means that the log lost or changed a record.
 */
export function judgeFrame(position: WalPosition, seq: number, head: FrameHead): Verdict {
  const order = head.epoch - position.epoch || head.attempt - position.attempt;
  if (order < 0) return "void";
  const chained = head.previousHash === position.hash;
  if (order > 0) return head.kind === FRAME_KIND.fence && head.number === 0 && chained ? "counts" : "corrupt";
  if (head.number === position.number + 1) return chained && head.kind !== FRAME_KIND.fence ? "counts" : "corrupt";
  const orphaned = head.number > position.number && head.number - position.number === seq - position.seq;
  return orphaned ? "void" : "corrupt";
}
