import type { Clock } from "@tributary/common/clock";
import { type TributaryError, toTributaryError } from "@tributary/common/errors";
import type { DropReport, EdgeStore, EdgeUsage } from "../store/edge-store.ts";
import { decideQuota, type QuotaDecision, type QuotaPolicy } from "./quota.ts";

/** While events are refused nothing is committed that would tell the usage: it is asked for. */
const REFRESH_MS = 1_000;

export interface QuotaKeeperOptions {
  readonly policy: QuotaPolicy;
  readonly store: Pick<EdgeStore, "usage" | "dropOldest" | "reclaim">;
  readonly clock: Clock;
  readonly pendingBytes: () => number;
  /** Takes effect before it returns. */
  readonly apply: (decision: QuotaDecision, rejects: boolean) => void;
  readonly dropped: (report: DropReport) => void;
  readonly failed: (error: TributaryError) => void;
}

/** Keeps the log below its cap: applies the quota policy to each new usage, and drops or waits as it says. */
export class QuotaKeeper {
  readonly #options: QuotaKeeperOptions;
  #usage: EdgeUsage;
  #refusing = false;
  #wantedBytes = 0;
  #shrinking = false;
  #refreshing = false;
  #cancelRefresh: (() => void) | undefined;
  #closed = false;

  constructor(options: QuotaKeeperOptions, usage: EdgeUsage) {
    this.#options = options;
    this.#usage = usage;
    this.note(usage);
  }

  get usage(): EdgeUsage {
    return this.#usage;
  }

  get refusing(): boolean {
    return this.#refusing;
  }

  note(usage: EdgeUsage): void {
    if (this.#closed) return;
    this.#usage = usage;
    const { policy, apply } = this.#options;
    const decision = decideQuota(policy, {
      diskBytes: usage.diskBytes,
      eventsHeld: usage.eventsHeld,
      pendingBytes: this.#options.pendingBytes(),
      refusing: this.#refusing,
      wantedBytes: this.#wantedBytes,
    });
    this.#refusing = decision.refuse;
    const { shrinkToBytes } = decision;
    if (shrinkToBytes === undefined) this.#wantedBytes = 0;
    else if (!this.#shrinking) void this.#shrink(shrinkToBytes);
    if (decision.refuse || shrinkToBytes !== undefined) this.#refreshLater();
    apply(decision, policy.whenFull === "reject");
  }

  /** Events of this size did not fit. */
  overQuota(bytes: number): void {
    if (bytes <= this.#wantedBytes) return;
    this.#wantedBytes = bytes;
    this.#refreshLater(0);
  }

  /** Asks the log how large it is now; after something was freed, say. */
  async refresh(): Promise<void> {
    if (this.#closed || this.#refreshing) return;
    this.#refreshing = true;
    try {
      this.note(await this.#options.store.usage());
    } catch (error) {
      this.#options.failed(toTributaryError(error));
      this.#refreshLater();
    } finally {
      this.#refreshing = false;
    }
  }

  close(): void {
    this.#closed = true;
    this.#cancelRefresh?.();
  }

  async #shrink(bytesTarget: number): Promise<void> {
    const { store, policy, dropped } = this.#options;
    const rejects = policy.whenFull === "reject";
    this.#shrinking = true;
    try {
      const report = rejects ? await store.reclaim(bytesTarget) : await store.dropOldest(bytesTarget);
      if (report.eventsDropped > 0) dropped(report);
      const usage = await store.usage();
      this.#shrinking = false;
      // Whoever was refused was told so, and asks again.
      if (rejects) this.#wantedBytes = 0;
      // Where nothing was gained, trying again at once would change nothing: the refresh does it.
      if (report.bytesFreed > 0) this.note(usage);
    } catch (error) {
      this.#shrinking = false;
      this.#options.failed(toTributaryError(error));
    }
  }

  #refreshLater(delayMs = REFRESH_MS): void {
    if (this.#closed) return;
    if (this.#cancelRefresh) {
      if (delayMs > 0) return;
      this.#cancelRefresh();
    }
    this.#cancelRefresh = this.#options.clock.setTimer(delayMs, () => {
      this.#cancelRefresh = undefined;
      void this.refresh();
    });
  }
}
