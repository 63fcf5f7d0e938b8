import type { Msg } from "@nats-io/transport-node";
import { hasCode, TributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import type { Log, LogRecord, LogState } from "../ports/log.ts";
import {
  askJetStream,
  ensureStream,
  getMessage,
  headersOf,
  JetStreamRefusal,
  JS_ERROR,
  type PubAck,
  parseAnswer,
  type StreamInfo,
} from "./jetstream-api.ts";
import type { NatsLink } from "./nats-connection.ts";

export interface JetStreamLogOptions {
  /** Name of the stream: A-Z a-z 0-9 _ - */
  readonly name: string;
  /** 3 for anything that must survive a server; 1 for one server. Default 3. */
  readonly replicas?: number;
  /** Bytes after which appends fail with STORAGE_FULL; without it the server's disk or account is the limit. */
  readonly bytesMax?: number;
  /** The largest record that will be appended: a server whose max_payload is too small for it is refused at once. */
  readonly recordBytesMin?: number;
  /** After which an append without an answer is LOG_RESULT_UNKNOWN: a server that died and left its clients connected. Default 5 s. */
  readonly appendTimeoutMs?: number;
  /** How long reads and truncation look for a leader. Default 15 s. */
  readonly requestTimeoutMs?: number;
}

/** Subject and reply subject, the header and its frame. */
const PUBLISH_OVERHEAD_BYTES = 512;
/** Gets under way for one read. */
const GETS_MAX = 16;
const FULL_CODES: readonly number[] = [
  JS_ERROR.accountResourcesExceeded,
  JS_ERROR.insufficientResources,
  JS_ERROR.storageResourcesExceeded,
];
const MISMATCH_CODES: readonly number[] = [JS_ERROR.wrongLastSequence, JS_ERROR.wrongLastSequenceConstant];

/**
 * Log on one JetStream stream with file storage. Sequences are the stream's. An append names the sequence it expects to follow,
 * so that it is either the next record or nothing at all. The server must have been checked with assertSafeServer: only then
 * does an acknowledgement mean fsynced. Reads and decisions go to the stream's leader, never to direct get.
 */
export class JetStreamLog implements Log {
  readonly #link: NatsLink;
  readonly #stream: string;
  readonly #subject: string;
  readonly #bounded: boolean;
  readonly #appendTimeoutMs: number;
  readonly #requestTimeoutMs: number;
  #closed = false;

  private constructor(link: NatsLink, options: JetStreamLogOptions) {
    this.#link = link;
    this.#stream = options.name;
    this.#subject = logSubject(options.name);
    this.#bounded = options.bytesMax !== undefined;
    this.#appendTimeoutMs = options.appendTimeoutMs ?? 5_000;
    this.#requestTimeoutMs = options.requestTimeoutMs ?? 15_000;
  }

  /** Creates the stream if there is none. @throws CONFIG_INVALID when one with other settings is there or max_payload is too small, BUS_NO_RESPONDER, BUS_TIMEOUT, BUS_UNREACHABLE */
  static async open(link: NatsLink, options: JetStreamLogOptions): Promise<JetStreamLog> {
    if (!/^[A-Za-z0-9_-]{1,128}$/.test(options.name)) {
      throw new TributaryError("CONFIG_INVALID", `'${options.name}' cannot be the name of a JetStream stream`);
    }
    const log = new JetStreamLog(link, options);
    const { recordBytesMin = 0 } = options;
    if (log.recordBytesMax < recordBytesMin) {
      const needed = recordBytesMin + PUBLISH_OVERHEAD_BYTES;
      const found = link.maxPayloadBytes();
      throw new TributaryError(
        "CONFIG_INVALID",
        `max_payload of the NATS server at ${link.url} is ${found}; set at least 'max_payload: ${needed}'`,
      );
    }
    await ensureStream(link, logStreamConfig(options), log.#requestTimeoutMs);
    return log;
  }

  /** Payload bytes of the largest record that the server takes now. */
  get recordBytesMax(): number {
    return Math.min(LIMITS.frameBytesMax, this.#link.maxPayloadBytes() - PUBLISH_OVERHEAD_BYTES);
  }

  async state(): Promise<LogState> {
    this.#mustBeOpen();
    const { state } = await this.#ask<StreamInfo>("INFO", undefined);
    return { first: state.messages === 0 ? state.last_seq + 1 : state.first_seq, last: state.last_seq, bytes: state.bytes };
  }

  // Not an async function: the message leaves in the very call, so that pipelined appends keep the order of the calls.
  append(data: Uint8Array, expectedLast: number): Promise<number> {
    try {
      this.#mustBeOpen();
      if (data.length > this.recordBytesMax) {
        const limit = this.recordBytesMax;
        throw new TributaryError("BATCH_TOO_LARGE", `a record of ${data.length} bytes exceeds the server's max_payload (${limit})`, {
          limit,
        });
      }
    } catch (error) {
      return Promise.reject(error);
    }
    const headers = headersOf({ "Nats-Expected-Last-Sequence": String(expectedLast) });
    return this.#link.inbox.request(this.#subject, data, { timeoutMs: this.#appendTimeoutMs, headers }).then(
      (msg) => this.#readAck(msg, expectedLast),
      (error: unknown) => {
        throw unknownResult(error);
      },
    );
  }

  #readAck(msg: Msg, expectedLast: number): number {
    let ack: PubAck;
    try {
      ack = parseAnswer<PubAck>(msg);
    } catch (error) {
      if (!(error instanceof JetStreamRefusal)) throw unknownResult(error);
      const { errCode } = error.problem;
      if (MISMATCH_CODES.includes(errCode)) {
        throw new TributaryError("LOG_SEQUENCE_MISMATCH", `the log does not end at ${expectedLast}`, { expectedLast }, { cause: error });
      }
      // The stream's own limit comes as a failure of the store; without one the same code may be a failed write, whose result is open.
      if (FULL_CODES.includes(errCode) || (this.#bounded && errCode === JS_ERROR.storeFailed)) {
        throw new TributaryError("STORAGE_FULL", `the log ${this.#stream} is full`, { errCode }, { cause: error });
      }
      throw unknownResult(error);
    }
    if (ack.stream !== this.#stream || ack.seq !== expectedLast + 1) {
      throw unknownResult(new Error(`${ack.stream} stored it as ${ack.seq} instead of ${expectedLast + 1}`));
    }
    return ack.seq;
  }

  async read(fromSeq: number, bounds: { recordsMax: number; bytesMax: number }): Promise<LogRecord[]> {
    this.#mustBeOpen();
    const { state } = await this.#ask<StreamInfo>("INFO", undefined);
    const meanBytes = Math.max(1, state.bytes / Math.max(1, state.messages));
    const records: LogRecord[] = [];
    let bytes = 0;
    let next = Math.max(fromSeq, state.first_seq, 1);
    while (next <= state.last_seq && records.length < Math.max(1, bounds.recordsMax)) {
      // As many at once as will fit by the mean size: what comes in excess is thrown away.
      const fitting = Math.ceil((bounds.bytesMax - bytes) / meanBytes);
      if (records.length > 0 && (bounds.bytesMax - bytes) * 4 < meanBytes) break;
      const count = Math.max(1, Math.min(GETS_MAX, bounds.recordsMax - records.length, state.last_seq + 1 - next, fitting));
      const page = await Promise.all(Array.from({ length: count }, (_, i) => this.#get({ seq: next + i })));
      for (const record of page) {
        if (!record) continue;
        if (records.length > 0 && bytes + record.data.length > bounds.bytesMax) return records;
        records.push(record);
        bytes += record.data.length;
      }
      next += count;
      if (page.every((record) => record === undefined)) {
        // A hole, or truncated meanwhile: go on where the leader has something. The reader sees the missing sequences.
        const found = await this.#get({ seq: next, next_by_subj: this.#subject });
        if (!found) break;
        next = found.seq;
      }
    }
    return records;
  }

  async #get(query: { seq: number } | { seq: number; next_by_subj: string }): Promise<LogRecord | undefined> {
    const message = await getMessage(this.#link, this.#stream, query, this.#requestTimeoutMs).catch((error: unknown) =>
      this.#rethrow(error),
    );
    return message && { seq: message.seq, data: message.data };
  }

  async truncate(throughSeq: number): Promise<void> {
    const { first, last } = await this.state();
    if (throughSeq < first) return;
    // A purge beyond the end would raise the end.
    await this.#ask("PURGE", { seq: Math.min(throughSeq, last) + 1 });
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #ask<T>(operation: "INFO" | "PURGE", body: unknown): Promise<T> {
    return askJetStream<T>(this.#link, `STREAM.${operation}.${this.#stream}`, body, this.#requestTimeoutMs).catch((error: unknown) =>
      this.#rethrow(error),
    );
  }

  #rethrow(error: unknown): never {
    if (!(error instanceof JetStreamRefusal)) throw error;
    if (error.problem.errCode === JS_ERROR.streamNotFound) {
      throw new TributaryError(
        "STORE_CORRUPT",
        `the stream ${this.#stream} is gone from the server`,
        { stream: this.#stream },
        { cause: error },
      );
    }
    // The server's disk may be full: what of the range is gone is open, and truncating again is safe.
    if (error.problem.errCode === JS_ERROR.purgeFailed) throw unknownResult(error);
    throw new TributaryError("INTERNAL", error.message, { errCode: error.problem.errCode }, { cause: error });
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new TributaryError("LOG_CLOSED", `the log ${this.#stream} is closed`);
  }
}

function logSubject(name: string): string {
  return `tributary.log.${name}`;
}

/** Whatever is not a clear refusal may have landed, or may land later. */
function unknownResult(error: unknown): TributaryError {
  const reason = error instanceof Error ? error.message : String(error);
  const code = hasCode(error, "LOG_CLOSED") ? "LOG_CLOSED" : "LOG_RESULT_UNKNOWN";
  return new TributaryError(code, `no certain answer from the log: ${reason}`, {}, { cause: error });
}

/** How a log's stream must be set up. */
export function logStreamConfig(options: JetStreamLogOptions): Readonly<Record<string, unknown>> & { name: string } {
  return {
    name: options.name,
    subjects: [logSubject(options.name)],
    storage: "file",
    num_replicas: options.replicas ?? 3,
    retention: "limits",
    // A full log refuses; it never drops what was acknowledged.
    discard: "new",
    max_age: 0,
    max_msgs: -1,
    max_bytes: options.bytesMax ?? -1,
    max_msgs_per_subject: -1,
    max_msg_size: -1,
    // Answers may come from a replica that is behind.
    allow_direct: false,
    deny_delete: false,
    deny_purge: false,
    allow_rollup_hdrs: false,
  };
}
