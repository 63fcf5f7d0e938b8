import { type Clock, sleep } from "@tributary/common/clock";
import { type ErrorCode, hasCode, TributaryError, toTributaryError } from "@tributary/common/errors";
import { encodeCbor } from "@tributary/common/format/cbor";
import type { Id } from "@tributary/common/names";
import { inPhase, type PhaseListener } from "@tributary/common/phases";
import type { ObjectStore } from "@tributary/common/ports/object-store";
import type { Random } from "@tributary/common/random";
import type { WalPosition } from "../container/counting.ts";
import type { Durable } from "../container/durable.ts";
import type { Checkpoint, ObjectRef } from "../container/operations.ts";
import { buildFlushObject, type FlushObject } from "./flush-object.ts";
import { objectName } from "./object-names.ts";
import { snapshotRecord } from "./snapshot.ts";
import { encodeFooterOnly, OBJECT_HEAD_BYTES, OBJECT_KIND } from "./tier-object.ts";
import { putVerified } from "./verified-put.ts";

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 5_000;

export interface FlushPolicy {
  /** Flush at this many bytes in memory, … */
  readonly flushBytes: number;
  /** … or when the oldest of them has waited this long. */
  readonly flushIntervalMs: number;
  /** The WAL is truncated once so many of its bytes are in the tier, or so long after the last time: each truncation holds appends up. */
  readonly truncateBytes: number;
  readonly truncateIntervalMs: number;
  /** Objects after which a snapshot is written, so that recovery reads at most so many footers. */
  readonly checkpointObjectsMax: number;
  /** A step that has given no answer for so long is a problem, and waited for all the same. */
  readonly flushStepMsMax: number;
}

/** "upload": the lake takes nothing; "checkpoint": the WAL does not, of what is in the lake. */
type FlushStep = "upload" | "checkpoint";

/** The step that flushing is held up at, and how it failed last. */
export interface FlushProblem {
  readonly step: FlushStep;
  readonly code: ErrorCode;
}

/** What the flusher needs of its container. */
export interface FlushHost {
  readonly container: number;
  readonly epoch: number;
  attempt(): number;
  durable(): Durable;
  /** Makes the checkpoint durable in the WAL. @throws CONTAINER_NOT_OWNED if the lake knows of a later owner */
  record(checkpoint: Checkpoint): Promise<void>;
  /** Through this record, if the WAL still has it there. */
  truncateWal(through: WalPosition): Promise<void>;
  /** More is in the tier; undefined: a stream's close. */
  onFlushed(changed: ReadonlyMap<Id, number | undefined>): void;
  /** Gateways may be told. */
  onTiered(): void;
  onFatal(error: unknown): void;
}

export interface FlushPorts {
  readonly objects: ObjectStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly phases: PhaseListener;
  /** A step failed and is tried again, or is overdue. */
  onProblem(step: FlushStep, error: TributaryError): void;
}

interface PreparedFlush {
  readonly object: FlushObject;
  readonly snapshot: { readonly name: string; readonly bytes: Uint8Array } | undefined;
  readonly checkpoint: Checkpoint;
  readonly events: number;
}

/**
 * Brings durable frames into the tier, one flush at a time, in the order of rule L3: upload, read back and verify, record the
 * checkpoint in the WAL, raise the levels. The WAL is truncated behind a checkpoint, though not behind each: a truncation makes appends
 * wait. A flush that was prepared is carried through unchanged, also over the end of an attempt: what it holds is durable, and its name
 * is its own.
 */
export class Flusher {
  readonly #host: FlushHost;
  readonly #policy: FlushPolicy;
  readonly #ports: FlushPorts;
  readonly #stop = new AbortController();
  #finishing = false;
  #running: Promise<void> | undefined;
  #prepared: PreparedFlush | undefined;
  #oldestMs: number | undefined;
  #cancelTimer: (() => void) | undefined;
  /** The checkpoint behind which the WAL may be truncated, and how many bytes have come to that since it was. */
  #truncatable: { readonly position: WalPosition; readonly bytes: number } | undefined;
  #truncatedMs: number;
  #truncating: Promise<void> = Promise.resolve();
  #cancelTruncation: (() => void) | undefined;
  #problem: FlushProblem | undefined;

  constructor(host: FlushHost, policy: FlushPolicy, ports: FlushPorts) {
    this.#host = host;
    this.#policy = policy;
    this.#ports = ports;
    this.#truncatedMs = ports.clock.monotonicMs();
  }

  /** `tiered`: through which record of this WAL the owner before had brought everything into the tier. */
  start(tiered: WalPosition): void {
    if (tiered.seq > 0) this.#mayTruncate({ position: tiered, bytes: 0 });
    this.poke();
  }

  /** undefined once a step has succeeded again. */
  get problem(): FlushProblem | undefined {
    return this.#problem;
  }

  /** Called whenever something became durable. */
  poke(): void {
    if (this.#running || this.#finishing || this.#stop.signal.aborted) return;
    const { unflushed } = this.#host.durable();
    if (!unflushed.worthFlushing) return;
    const nowMs = this.#ports.clock.monotonicMs();
    this.#oldestMs ??= nowMs;
    const waitMs = this.#oldestMs + this.#policy.flushIntervalMs - nowMs;
    if (unflushed.bytes < this.#policy.flushBytes && waitMs > 0) {
      this.#cancelTimer ??= this.#ports.clock.setTimer(waitMs, () => {
        this.#cancelTimer = undefined;
        this.poke();
      });
      return;
    }
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#running = this.#flush().then(
      () => this.#finished(),
      (error: unknown) => {
        this.#running = undefined;
        this.#host.onFatal(error);
      },
    );
  }

  /** One last flush of everything durable; gives up where a port fails. */
  async finish(): Promise<void> {
    this.#finishing = true;
    await this.#running;
    if (!this.#stop.signal.aborted && (this.#prepared || this.#host.durable().unflushed.worthFlushing)) await this.#flush();
    if (!this.#stop.signal.aborted) await this.#truncate();
    this.stop();
  }

  stop(): void {
    this.#cancelTimer?.();
    this.#cancelTruncation?.();
    this.#stop.abort();
  }

  #finished(): void {
    this.#running = undefined;
    this.poke();
  }

  async #flush(): Promise<void> {
    this.#prepared ??= await this.#prepare();
    if (this.#stop.signal.aborted) return;
    const { object, snapshot, checkpoint, events } = this.#prepared;
    const { container } = this.#host;
    const { objects, phases } = this.#ports;
    const upload = async () => {
      await putVerified(objects, objectName(container, "blocks", object.ref), object.parts);
      if (snapshot) await putVerified(objects, snapshot.name, snapshot.bytes);
    };
    if (!(await this.#persist("upload", () => inPhase(phases, "flush", upload)))) return;
    if (!(await this.#persist("checkpoint", () => this.#host.record(checkpoint)))) return;
    this.#prepared = undefined;
    this.#host.onFlushed(this.#host.durable().flushed(object, checkpoint, events));
    this.#mayTruncate({ position: checkpoint.position, bytes: (this.#truncatable?.bytes ?? 0) + object.ref.bytes });
    if (this.#isWorthTruncating) await this.#truncate();
    this.#host.onTiered();
  }

  #mayTruncate(truncatable: { readonly position: WalPosition; readonly bytes: number }): void {
    this.#truncatable = truncatable;
    // Also where nothing more is flushed: the next owner reads all that is left of the log.
    this.#cancelTruncation ??= this.#ports.clock.setTimer(this.#policy.truncateIntervalMs, () => {
      this.#cancelTruncation = undefined;
      void this.#truncate();
    });
  }

  get #isWorthTruncating(): boolean {
    const { truncateBytes, truncateIntervalMs } = this.#policy;
    const { bytes = 0 } = this.#truncatable ?? {};
    return bytes >= truncateBytes || this.#ports.clock.monotonicMs() - this.#truncatedMs >= truncateIntervalMs;
  }

  #truncate(): Promise<void> {
    this.#truncating = this.#truncating.then(async () => {
      const wanted = this.#truncatable;
      if (!wanted || this.#stop.signal.aborted) return;
      try {
        await this.#host.truncateWal(wanted.position);
        this.#truncatedMs = this.#ports.clock.monotonicMs();
        if (this.#truncatable === wanted) this.#truncatable = undefined;
      } catch {
        // The next one makes it good.
        if (!this.#stop.signal.aborted) this.#mayTruncate(this.#truncatable ?? wanted);
      }
    });
    return this.#truncating;
  }

  /** Carries a step out until it succeeds. False: the flusher was stopped, or is finishing and the step failed. */
  async #persist(name: FlushStep, step: () => Promise<void>): Promise<boolean> {
    for (let backoffMs = BACKOFF_MS_MIN; !this.#stop.signal.aborted; backoffMs = Math.min(backoffMs * 2, BACKOFF_MS_MAX)) {
      try {
        await this.#noticed(name, step());
        this.#problem = undefined;
        return !this.#stop.signal.aborted;
      } catch (error) {
        if (hasCode(error, "STORE_CORRUPT")) throw error;
        if (hasCode(error, "CONTAINER_NOT_OWNED") && !this.#stop.signal.aborted) throw error;
        this.#heldUp(name, toTributaryError(error));
        if (this.#finishing) return false;
        await sleep(this.#ports.clock, backoffMs * (0.5 + this.#ports.random.float() / 2), this.#stop.signal);
      }
    }
    return false;
  }

  /** A store that does not answer, such as a mount whose server is away, is told of like one that refuses. */
  async #noticed(name: FlushStep, step: Promise<void>): Promise<void> {
    const { flushStepMsMax } = this.#policy;
    const cancel = this.#ports.clock.setTimer(flushStepMsMax, () =>
      this.#heldUp(name, new TributaryError("BUS_TIMEOUT", `no answer for ${flushStepMsMax} ms`)),
    );
    await step.finally(cancel);
  }

  #heldUp(step: FlushStep, error: TributaryError): void {
    this.#problem = { step, code: error.code };
    this.#ports.onProblem(step, error);
  }

  /** Takes everything that is durable now: state, frames and position belong together, whatever is appended meanwhile. */
  async #prepare(): Promise<PreparedFlush> {
    this.#oldestMs = undefined;
    const { container, epoch } = this.#host;
    const attempt = this.#host.attempt();
    const durable = this.#host.durable();
    const { state, position, index, checkpoint } = durable;
    const { events } = state;
    const steps = buildFlushObject({ container, epoch, attempt }, state, position, durable.unflushed, durable.lastObject);
    let step = steps.next();
    if (checkpoint.objects.length < this.#policy.checkpointObjectsMax) {
      for (; !step.done; step = steps.next()) await sleep(this.#ports.clock, 0, this.#stop.signal);
      const object = step.value;
      return {
        object,
        snapshot: undefined,
        checkpoint: { position, snapshot: checkpoint.snapshot, objects: [...checkpoint.objects, object.ref] },
        events,
      };
    }
    // A snapshot is of all the state, which must not change until it is encoded.
    while (!step.done) step = steps.next();
    const object = step.value;
    const record = encodeCbor(snapshotRecord(container, state, position, index, object));
    const { bytes, footerBytes } = encodeFooterOnly(OBJECT_KIND.snapshot, record);
    const ref: ObjectRef = { epoch, attempt, through: position.seq, bytes: OBJECT_HEAD_BYTES + footerBytes, footerBytes };
    const name = objectName(container, "snapshot", ref);
    return { object, snapshot: { name, bytes }, checkpoint: { position, snapshot: ref, objects: [] }, events };
  }
}
