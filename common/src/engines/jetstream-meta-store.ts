import { DeliverPolicy, jetstream } from "@nats-io/jetstream";
import { sleep } from "../clock.ts";
import { hasCode, TributaryError } from "../errors.ts";
import type { MetaChange, MetaEntry, MetaStore } from "../ports/meta-store.ts";
import {
  askJetStream,
  ensureStream,
  getMessage,
  headersOf,
  JetStreamRefusal,
  JS_ERROR,
  type PubAck,
  parseAnswer,
  type StoredMessage,
  type StreamInfo,
} from "./jetstream-api.ts";
import { checkMetaKey, checkMetaPrefix } from "./meta-key.ts";
import type { NatsLink } from "./nats-connection.ts";
import { guarded } from "./nats-inbox.ts";
import { plainBytes } from "./nats-parts.ts";

export interface JetStreamMetaStoreOptions {
  /** Name of the key-value bucket: A-Z a-z 0-9 _ - */
  readonly bucket: string;
  /** Default 3. */
  readonly replicas?: number;
  readonly requestTimeoutMs?: number;
}

/** Gets under way for one list. */
const GETS_MAX = 64;
const RETRY_MS = 100;
/** Rounds in which another keeps deleting and creating the key that is being created or deleted. */
const ROUNDS_MAX = 16;
const MISMATCH_CODES: readonly number[] = [JS_ERROR.wrongLastSequence, JS_ERROR.wrongLastSequenceConstant];

/**
 * MetaStore on a JetStream key-value bucket (stream KV_{bucket}, subjects $KV.{bucket}.{key}, history 1), so that the usual
 * tools for buckets show it. A key's "/" is written "." and its "." is written "=": no part of a key holds a "=", so the
 * mapping goes both ways. Revisions are sequences of the stream. A deleted key leaves a marker, behind which a later create
 * must fit; reads are answered by the stream's leader (direct get is off).
 */
export class JetStreamMetaStore implements MetaStore {
  readonly #link: NatsLink;
  readonly #bucket: string;
  readonly #stream: string;
  readonly #timeoutMs: number;
  readonly #closing = new AbortController();
  readonly #watches = new Set<Promise<void>>();

  private constructor(link: NatsLink, options: JetStreamMetaStoreOptions) {
    this.#link = link;
    this.#bucket = options.bucket;
    this.#stream = `KV_${options.bucket}`;
    this.#timeoutMs = options.requestTimeoutMs ?? 15_000;
  }

  /** Creates the bucket if there is none. @throws CONFIG_INVALID when one with other settings is there, BUS_NO_RESPONDER, BUS_TIMEOUT, BUS_UNREACHABLE */
  static async open(link: NatsLink, options: JetStreamMetaStoreOptions): Promise<JetStreamMetaStore> {
    if (!/^[A-Za-z0-9_-]{1,120}$/.test(options.bucket)) {
      throw new TributaryError("CONFIG_INVALID", `'${options.bucket}' cannot be the name of a key-value bucket`);
    }
    const store = new JetStreamMetaStore(link, options);
    await ensureStream(link, bucketConfig(options), store.#timeoutMs);
    return store;
  }

  async get(key: string): Promise<MetaEntry | undefined> {
    const message = await this.#last(this.#subject(key));
    return message && !isMarker(message.headers) ? { key, value: message.data, revision: message.seq } : undefined;
  }

  async create(key: string, value: Uint8Array): Promise<number> {
    const subject = this.#subject(key);
    let expected = 0;
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const revision = await this.#put(subject, value, expected, {});
      if (revision !== undefined) return revision;
      // What stands there is either the key, or the marker of a deleted one, in whose place it may be created.
      const last = await this.#last(subject);
      if (last && !isMarker(last.headers)) break;
      expected = last?.seq ?? 0;
    }
    throw new TributaryError("META_EXISTS", `the key ${key} exists`, { key });
  }

  async update(key: string, value: Uint8Array, revision: number): Promise<number> {
    const subject = this.#subject(key);
    const updated = revision > 0 ? await this.#put(subject, value, revision, {}) : undefined;
    if (updated === undefined) throw conflict(key, revision);
    return updated;
  }

  async delete(key: string, revision: number): Promise<void> {
    const subject = this.#subject(key);
    if (revision > 0 && (await this.#put(subject, new Uint8Array(), revision, { "KV-Operation": "DEL" })) !== undefined) return;
    const last = await this.#last(subject);
    if (last && !isMarker(last.headers)) throw conflict(key, revision);
  }

  async list(prefix: string): Promise<MetaEntry[]> {
    this.#mustBeOpen();
    const subjects: string[] = [];
    for (const filter of this.#filters(prefix)) subjects.push(...(await this.#subjects(filter)));
    const entries: MetaEntry[] = [];
    for (let from = 0; from < subjects.length; from += GETS_MAX) {
      const page = await Promise.all(subjects.slice(from, from + GETS_MAX).map((subject) => this.get(this.#key(subject))));
      for (const entry of page) if (entry) entries.push(entry);
    }
    return entries.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  async watch(prefix: string, signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void> {
    this.#mustBeOpen();
    const filters = this.#filters(prefix);
    const watching = this.#watch(filters, AbortSignal.any([signal, this.#closing.signal]), onChange);
    this.#watches.add(watching);
    try {
      await watching;
    } finally {
      this.#watches.delete(watching);
    }
  }

  /** Follows the bucket with the client library's ordered consumer, which begins anew by itself where it was cut off. */
  async #watch(filters: string[], signal: AbortSignal, onChange: (change: MetaChange) => void): Promise<void> {
    const live = new Set<string>();
    let lastSeq = 0;
    const take = (subject: string, seq: number, deleted: boolean, data: Uint8Array): void => {
      if (seq <= lastSeq || signal.aborted) return;
      lastSeq = seq;
      const key = this.#key(subject);
      // A marker of a key that was gone before this watch began is no change.
      if (deleted && !live.delete(key)) return;
      if (!deleted) live.add(key);
      onChange({ key, value: deleted ? undefined : plainBytes(data), revision: seq });
    };
    while (!signal.aborted) {
      try {
        const consumer = await jetstream(this.#link.nc).consumers.get(this.#stream, {
          filter_subjects: filters,
          deliver_policy: DeliverPolicy.LastPerSubject,
        });
        if (signal.aborted) return;
        const messages = await consumer.consume({
          callback: guarded((msg) => take(msg.subject, msg.seq, isDeletion(msg.headers?.get("KV-Operation") ?? ""), msg.data)),
        });
        const stop = () => messages.stop();
        signal.addEventListener("abort", stop, { once: true });
        if (signal.aborted) stop();
        await messages.closed();
        signal.removeEventListener("abort", stop);
      } catch {
        // No leader, or no connection: tried again. What was reported already is not reported again.
      }
      await sleep(this.#link.clock, RETRY_MS, signal);
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#watches);
  }

  #subject(key: string): string {
    this.#mustBeOpen();
    checkMetaKey(key);
    return subjectOf(this.#bucket, key);
  }

  #key(subject: string): string {
    return subject.slice(`$KV.${this.#bucket}.`.length).replaceAll(".", "/").replaceAll("=", ".");
  }

  #filters(prefix: string): string[] {
    checkMetaPrefix(prefix);
    if (prefix === "") return [`$KV.${this.#bucket}.>`];
    const subject = subjectOf(this.#bucket, prefix);
    return [subject, `${subject}.>`];
  }

  async #last(subject: string): Promise<StoredMessage | undefined> {
    return await getMessage(this.#link, this.#stream, { last_by_subj: subject }, this.#timeoutMs).catch(rethrow);
  }

  /** Subjects below a filter, as the leader has them; it gives them in pages. */
  async #subjects(filter: string): Promise<string[]> {
    const subjects: string[] = [];
    for (;;) {
      const query = { subjects_filter: filter, offset: subjects.length };
      const info = await askJetStream<StreamInfo>(this.#link, `STREAM.INFO.${this.#stream}`, query, this.#timeoutMs).catch(rethrow);
      const page = Object.keys(info.state.subjects ?? {});
      subjects.push(...page);
      if (page.length === 0 || subjects.length >= (info.total ?? 0)) return subjects;
    }
  }

  /**
   * Stores a value if the subject's last message is `expected` (0: none). Resolves with its sequence, undefined if it is not.
   * Repeats while nobody serves the bucket: nothing was stored then.
   */
  async #put(subject: string, value: Uint8Array, expected: number, extra: Readonly<Record<string, string>>): Promise<number | undefined> {
    const headers = headersOf({ ...extra, "Nats-Expected-Last-Subject-Sequence": String(expected) });
    const end = this.#link.clock.monotonicMs() + this.#timeoutMs;
    for (;;) {
      try {
        return parseAnswer<PubAck>(await this.#link.inbox.request(subject, value, { timeoutMs: this.#timeoutMs, headers })).seq;
      } catch (error) {
        if (error instanceof JetStreamRefusal) {
          if (MISMATCH_CODES.includes(error.problem.errCode)) return undefined;
          throw unknownResult(error);
        }
        if (!hasCode(error, "BUS_NO_RESPONDER")) throw hasCode(error, "BUS_UNREACHABLE") ? error : unknownResult(error);
        if (this.#link.clock.monotonicMs() + RETRY_MS >= end) throw error;
      }
      await sleep(this.#link.clock, RETRY_MS);
    }
  }

  #mustBeOpen(): void {
    if (this.#closing.signal.aborted) throw new TributaryError("LOG_CLOSED", "the metadata store is closed");
  }
}

function subjectOf(bucket: string, key: string): string {
  return `$KV.${bucket}.${key.replaceAll(".", "=").replaceAll("/", ".")}`;
}

function isDeletion(operation: string): boolean {
  return operation === "DEL" || operation === "PURGE";
}

/** True for the marker that a deletion leaves: headers as they are stored. */
function isMarker(headers: string): boolean {
  return isDeletion(/^KV-Operation: *(\w+)\r?$/m.exec(headers)?.[1] ?? "");
}

function conflict(key: string, revision: number): TributaryError {
  return new TributaryError("META_CONFLICT", `the key ${key} is not at revision ${revision} any more`, { key, revision });
}

function unknownResult(error: unknown): TributaryError {
  const reason = error instanceof Error ? error.message : String(error);
  return new TributaryError("LOG_RESULT_UNKNOWN", `no certain answer to a change of metadata: ${reason}`, {}, { cause: error });
}

function rethrow(error: unknown): never {
  if (!(error instanceof JetStreamRefusal)) throw error;
  throw new TributaryError("STORE_CORRUPT", `the metadata bucket does not answer as one. ${error.message}`, {}, { cause: error });
}

/** How the stream of a metadata bucket must be set up. */
export function bucketConfig(options: JetStreamMetaStoreOptions): Readonly<Record<string, unknown>> & { name: string } {
  return {
    name: `KV_${options.bucket}`,
    subjects: [`$KV.${options.bucket}.>`],
    storage: "file",
    num_replicas: options.replicas ?? 3,
    retention: "limits",
    discard: "new",
    max_age: 0,
    max_msgs: -1,
    max_bytes: -1,
    max_msgs_per_subject: 1,
    max_msg_size: -1,
    allow_direct: false,
    deny_delete: true,
    deny_purge: false,
    allow_rollup_hdrs: true,
  };
}
