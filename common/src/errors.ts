/**
 * The one table of errors. Code, HTTP status, whether the same request may succeed later, whether the failed
 * request may have changed something all the same, and what the reader of the message should do.
 * Callers branch on the code, never on the text.
 */
interface ErrorRow {
  readonly status: number;
  readonly retryable: boolean;
  /** True where the request may have taken effect although it failed. */
  readonly sideEffects: boolean;
  readonly hint: string;
}

type Row = readonly [status: number, hint: string, flag?: "retryable" | "effects" | "uncertain"];

const ROWS = {
  // Requests
  BATCH_TOO_LARGE: [413, "Send fewer or smaller events in one request."],
  CONTENT_TYPE_MISMATCH: [409, "Send the content type with which the stream was created."],
  CONTENT_TYPE_UNSUPPORTED: [415, "Use a content type that this operation accepts."],
  EVENT_TOO_LARGE: [413, "An event may hold at most 1 MiB; split it or store it elsewhere and send a reference."],
  INVALID_BODY: [400, "Mend the request body."],
  INVALID_JSON: [400, "Send valid JSON; an array is taken as one event for each element."],
  INVALID_NAME: [400, "Names have 1 to 128 characters out of A-Z a-z 0-9 . _ - and begin with a letter or digit."],
  INVALID_REQUEST: [400, "Mend the request as the detail says."],
  METHOD_NOT_ALLOWED: [405, "See PROTOCOL.md for the methods of this path."],
  NOT_FOUND: [404, "See PROTOCOL.md for the paths that exist."],
  PAYLOAD_EMPTY: [400, "An append needs a body."],
  PRODUCER_EPOCH_STALE: [403, "Another producer took this id over with a higher epoch; stop, or start with an epoch above it."],
  PRODUCER_HEADERS_INVALID: [400, "Send Producer-Id, Producer-Epoch and Producer-Seq together, the numbers as integers from 0."],
  PRODUCER_SEQUENCE_GAP: [409, "Send the missing sequence numbers first."],
  SEQUENCE_CONFLICT: [409, "Stream-Seq must be greater than the one before it."],
  UNAUTHORIZED: [401, "Send the configured bearer token as 'Authorization: Bearer …'; commands take it from --token or TRIBUTARY_TOKEN."],
  // Streams and offsets
  OFFSET_FOREIGN: [400, "This offset was given by another server or another stream; offsets of a gateway are valid only there."],
  OFFSET_GONE: [410, "The events at this offset are no longer kept here; read on from the offset -1 or from the core."],
  OFFSET_INVALID: [400, "Use -1, now, or an offset that this server returned."],
  OFFSET_UNKNOWN: [409, "This offset lies beyond what the stream holds; continue from the offset in the detail."],
  STREAM_CLOSED: [409, "The stream is closed; nothing can be appended to it."],
  STREAM_EXISTS: [409, "The stream exists with another configuration."],
  STREAM_GONE: [410, "The stream was deleted."],
  STREAM_UNKNOWN: [
    404,
    "Create the stream at this server first: with PUT, 'tributary stream create --server URL' or 'tributary write --create'.",
  ],
  // Capacity
  OVERLOADED: [503, "Slow down and try again.", "retryable"],
  QUOTA_EXCEEDED: [
    507,
    "The gateway's disk quota is full and its policy is 'reject'; restore the uplink or raise edge.diskBytesMax.",
    "retryable",
  ],
  STORAGE_FULL: [507, "The disk is full; free space and try again. Nothing acknowledged was lost.", "retryable"],
  TOO_MANY_STREAMS: [429, "Delete streams or raise the limit."],
  // Ports
  BUS_NO_RESPONDER: [503, "Nobody serves this subject now; try again.", "retryable"],
  BUS_TIMEOUT: [504, "No answer in time; the request may have been carried out.", "uncertain"],
  BUS_UNREACHABLE: [503, "The NATS server cannot be reached; check nats.url and the network.", "retryable"],
  LOG_CLOSED: [503, "The log is closed.", "retryable"],
  LOG_RESULT_UNKNOWN: [504, "The append may or may not have landed; read the log before deciding.", "uncertain"],
  LOG_SEQUENCE_MISMATCH: [409, "Another writer appended to this log; it was not appended."],
  META_CONFLICT: [409, "The key changed meanwhile; read it again."],
  META_EXISTS: [409, "The key exists."],
  OBJECT_EXISTS: [409, "An object of this name exists; objects are never overwritten."],
  OBJECT_NOT_FOUND: [404, "No object of this name."],
  STORE_UNREACHABLE: [
    503,
    "The lake cannot be read or written now; check its folder (core.lake), what is mounted there, and its rights.",
    "retryable",
  ],
  // Formats
  BLOCK_CORRUPT: [422, "The block fails its checksum or breaks its format; it was not taken."],
  FRAME_CORRUPT: [500, "A write-ahead log record fails its checksum or breaks its format; it was quarantined."],
  FORMAT_UNSUPPORTED: [500, "Written by a newer version; upgrade before opening it."],
  STORE_CORRUPT: [500, "The store is damaged; what could be read was kept and the rest moved to quarantine."],
  // Replication
  CORE_ANSWER_INVALID: [
    502,
    "What answers in the core's place is not a core that this version understands; upgrade one of them.",
    "uncertain",
  ],
  CONTAINER_NOT_OWNED: [503, "This node does not own the container; ask again where it lives.", "retryable"],
  PARENT_NOT_REACHED: [409, "The writer's earlier incarnation has not been replicated yet; resume from the number in the detail."],
  PREVIOUS_NOT_REACHED: [409, "Earlier events of this writer are missing; resume from the number in the detail."],
  WRITER_FORKED: [409, "Two gateways run with the same identity and wrote different events under one number; retire one of them."],
  // Start-up and operation
  CONFIG_INVALID: [500, "Mend the setting as the detail says."],
  DATA_DIR_LOCKED: [500, "Another process uses this data folder; stop it, or choose another folder with --data."],
  NATS_UNSAFE: [
    500,
    "Start nats-server 2.15 or newer with 'jetstream { sync_interval: always }', or set nats.allowUnsafe for development.",
  ],
  NODE_VERSION: [500, "Run it with the project's own Node: 'npm start', or Node 22.18 or newer."],
  PORT_IN_USE: [500, "Another process listens on this port; stop it or choose another port."],
  SERVER_UNREACHABLE: [503, "Start the server, or name another one with --server URL.", "uncertain"],
  SHUTTING_DOWN: [503, "The server is stopping; try again.", "retryable"],
  USAGE: [400, "See 'tributary --help' and 'tributary COMMAND --help'."],
  INTERNAL: [500, "This is a defect; please report it with the log.", "effects"],
} as const;

export type ErrorCode = keyof typeof ROWS;

/** `uncertain` is retryable and may have had effects. */
export const ERROR_TABLE: Readonly<Record<ErrorCode, ErrorRow>> = Object.fromEntries(
  Object.entries(ROWS as Readonly<Record<string, Row>>).map(([code, [status, hint, flag]]) => [
    code,
    { status, hint, retryable: flag === "retryable" || flag === "uncertain", sideEffects: flag === "effects" || flag === "uncertain" },
  ]),
) as Record<ErrorCode, ErrorRow>;

/** Facts that travel with an error: plain values only, so that they survive a problem document and the bus. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

/** Every error that Tributary raises on purpose. `message` says what happened; the hint of its code says what to do. */
export class TributaryError extends Error {
  override readonly name = "TributaryError";
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = details;
  }

  get status(): number {
    return ERROR_TABLE[this.code].status;
  }
  get retryable(): boolean {
    return ERROR_TABLE[this.code].retryable;
  }
  get sideEffects(): boolean {
    return ERROR_TABLE[this.code].sideEffects;
  }
  get hint(): string {
    return ERROR_TABLE[this.code].hint;
  }
}

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === "string" && Object.hasOwn(ERROR_TABLE, value);
}

/** True for a TributaryError of one of the codes. */
export function hasCode(error: unknown, ...codes: readonly ErrorCode[]): error is TributaryError {
  return error instanceof TributaryError && codes.includes(error.code);
}

/** Wraps whatever was thrown, so that callers can always branch on a code. */
export function toTributaryError(error: unknown): TributaryError {
  if (error instanceof TributaryError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new TributaryError("INTERNAL", message, {}, { cause: error });
}
