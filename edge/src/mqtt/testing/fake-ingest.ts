import { TributaryError } from "@tributary/common/errors";
import { LIMITS } from "@tributary/common/limits";
import { formatStreamName, type StreamName } from "@tributary/common/names";
import type { AckTarget, Admission, Ingest, NewStreamOptions, StreamHandle } from "../../gateway/ingest.ts";
import type { StateChange } from "../../store/edge-store.ts";

interface FakeStream extends StreamHandle {
  state: "open" | "closed" | "gone";
}

interface Taken {
  readonly event?: FakeEvent;
  readonly change?: StateChange | undefined;
  readonly target: AckTarget | undefined;
  readonly token: number;
}

export interface FakeEvent {
  readonly stream: string;
  readonly key: string;
  readonly data: string;
}

/** An ingest in memory, whose commits happen, fail or wait as a test says. What is durable survives `restart`. */
export class FakeIngest implements Ingest {
  /** Durable events, in order. */
  readonly events: FakeEvent[] = [];
  /** Commits happen by themselves, on a later turn; otherwise at `commit` or `fail`. */
  automatic = true;
  /** What `append` and `change` answer, if not "accepted". */
  admission: Admission = "accepted";
  /** Events taken until the next commit; more are "full". */
  roomMax: number = Number.POSITIVE_INFINITY;
  createError: TributaryError | undefined;
  /** How many of the next commits fail, with STORAGE_FULL. */
  failures = 0;
  readonly #streams = new Map<string, FakeStream>();
  #durableIds = new Map<string, Map<number, number>>();
  #ids = new Map<string, Map<number, number>>();
  #open: Taken[] = [];
  #room: (() => void)[] = [];
  #scheduled = false;

  /** Accepted and neither committed nor failed. */
  get pending(): number {
    return this.#open.length;
  }

  stream(name: StreamName): StreamHandle | undefined {
    const stream = this.#streams.get(formatStreamName(name));
    return stream?.state === "gone" ? undefined : stream;
  }

  createStream(name: StreamName, options: NewStreamOptions): StreamHandle {
    if (this.createError !== undefined) throw this.createError;
    const stream: FakeStream = {
      id: `id-${this.#streams.size}`,
      name,
      contentType: options.contentType,
      state: options.closed ? "closed" : "open",
    };
    this.#streams.set(formatStreamName(name), stream);
    return stream;
  }

  setState(name: StreamName, state: FakeStream["state"]): void {
    const stream = this.#streams.get(formatStreamName(name));
    if (stream !== undefined) stream.state = state;
  }

  append(
    handle: StreamHandle,
    key: string,
    _timeMs: number,
    source: Uint8Array,
    start: number,
    end: number,
    target: AckTarget | undefined,
    token: number,
    change?: StateChange,
  ): Admission {
    const { state } = handle as FakeStream;
    if (state !== "open") return state;
    if (end - start > LIMITS.eventBytesMax) return "too-large";
    const refused = this.#refusal();
    if (refused !== undefined) return refused;
    const event = { stream: formatStreamName(handle.name), key, data: Buffer.from(source.subarray(start, end)).toString() };
    this.#take({ event, change, target, token });
    return "accepted";
  }

  appendPack(): Admission {
    throw new TributaryError("INTERNAL", "MQTT appends single events");
  }

  change(change: StateChange, target: AckTarget | undefined, token: number): Admission {
    const refused = this.#refusal();
    if (refused !== undefined) return refused;
    this.#take({ change, target, token });
    return "accepted";
  }

  barrier(target: AckTarget, token: number): void {
    this.#take({ target, token });
    // Answers at once, in the end, even if nothing else is pending.
    if (!this.automatic && this.#open.length === 1) this.#schedule();
  }

  holdsPacketId(clientId: string, packetId: number): boolean {
    return this.#ids.get(clientId)?.has(packetId) ?? false;
  }

  isRepetition(clientId: string, packetId: number, digest: number): boolean {
    return this.#ids.get(clientId)?.get(packetId) === digest;
  }

  hasPacketIds(clientId: string): boolean {
    return (this.#ids.get(clientId)?.size ?? 0) > 0;
  }

  onRoom(callback: () => void): void {
    this.#room.push(callback);
  }

  commit(): void {
    if (this.failures > 0) {
      this.failures--;
      this.fail(new TributaryError("STORAGE_FULL", "no space left"));
      return;
    }
    const batch = this.#open;
    this.#open = [];
    const targets = new Set<AckTarget>();
    for (const { event, change } of batch) {
      if (event !== undefined) this.events.push(event);
      if (change !== undefined) fold(this.#durableIds, change);
    }
    for (const { target, token } of batch) {
      target?.committed(token);
      if (target !== undefined) targets.add(target);
    }
    for (const target of targets) target.flush();
    this.#callRoom();
  }

  /** All that was accepted and is not durable is lost. */
  fail(error: TributaryError): void {
    const batch = this.#open;
    this.restart();
    const targets = new Set<AckTarget>();
    for (const { target, token } of batch) {
      target?.failed(token, error);
      if (target !== undefined) targets.add(target);
    }
    for (const target of targets) target.flush();
    this.#callRoom();
  }

  /** What a kill leaves. */
  restart(): void {
    this.#open = [];
    this.#ids = new Map([...this.#durableIds].map(([client, ids]) => [client, new Map(ids)]));
  }

  #refusal(): Admission | undefined {
    if (this.admission !== "accepted") return this.admission;
    return this.#open.length >= this.roomMax ? "full" : undefined;
  }

  #take(entry: Taken): void {
    this.#open.push(entry);
    if (entry.change !== undefined) fold(this.#ids, entry.change);
    if (this.automatic) this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.commit();
    });
  }

  #callRoom(): void {
    const callbacks = this.#room;
    this.#room = [];
    for (const callback of callbacks) callback();
  }
}

function fold(ids: Map<string, Map<number, number>>, change: StateChange): void {
  if (change.type === "packet-id")
    ids.set(change.clientId, (ids.get(change.clientId) ?? new Map<number, number>()).set(change.packetId, change.digest ?? 0));
  else if (change.type === "release-packet-id") ids.get(change.clientId)?.delete(change.packetId);
  else if (change.type === "clear-packet-ids") ids.delete(change.clientId);
}
