import type { TributaryError } from "@tributary/common/errors";
import type { ManualClock } from "@tributary/common/testing/manual-clock";
import { seededRandom } from "../../store/testing/gateway-model.ts";
import { MemoryDisk } from "../../store/testing/memory-log.ts";
import { GroupCommit } from "../group-commit.ts";
import type { AckTarget, StreamHandle } from "../ingest.ts";
import { HeldEdgeStore } from "./held-edge-store.ts";

const encoder = new TextEncoder();
export const LINGER_MS_MAX = 5;

/** Notes each answer as "+token" or "-token:CODE", and each flush as "flush". */
export class Notes implements AckTarget {
  readonly list: string[] = [];
  committed(token: number): void {
    this.list.push(`+${token}`);
  }
  failed(token: number, error: TributaryError): void {
    this.list.push(`-${token}:${error.code}`);
  }
  flush(): void {
    this.list.push("flush");
  }
  /** Answers alone. */
  get answers(): string[] {
    return this.list.filter((note) => note !== "flush");
  }
}

export interface Harness {
  readonly store: HeldEdgeStore;
  readonly writer: string;
  readonly ingest: GroupCommit;
  readonly notes: Notes;
  readonly seen: string[];
  put(stream: StreamHandle, text: string, token: number, key?: string): string;
}

export async function groupCommitHarness(
  clock: ManualClock,
  streamsMax = 1_000,
  disk: MemoryDisk = new MemoryDisk(),
  seed = 1,
): Promise<Harness> {
  const random = seededRandom(seed);
  const store = new HeldEdgeStore(clock, random, disk);
  const seen: string[] = [];
  const notes = new Notes();
  const opened = await store.open();
  const ingest = new GroupCommit({
    store,
    opened,
    clock,
    random,
    phases: { begin: () => {}, end: () => {} },
    streamsMax,
    lingerMsMax: LINGER_MS_MAX,
    observer: {
      committed: () => seen.push("committed"),
      failed: (error) => seen.push(`failed ${error.code}`),
      reopenFailed: (error) => seen.push(`reopenFailed ${error.code}`),
      reopened: () => seen.push("reopened"),
      overQuota: (bytes) => seen.push(`overQuota ${bytes}`),
    },
  });
  return {
    store,
    writer: opened.writer,
    ingest,
    notes,
    seen,
    put: (stream, text, token, key = "k") => {
      const source = encoder.encode(text);
      return ingest.append(stream, key, 1, source, 0, source.length, notes, token);
    },
  };
}

export const BYTES = { contentType: "application/octet-stream", segments: 1, closed: false } as const;

/** Lets everything happen that needs no time. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/** Moves the clock past the linger until nothing is pending any more. */
export async function commitAll(clock: ManualClock): Promise<void> {
  for (let i = 0; i < 3; i++) {
    clock.advance(LINGER_MS_MAX);
    await settle();
  }
}
