import { headers, type Msg, type MsgHdrs } from "@nats-io/transport-node";
import { sleep } from "../clock.ts";
import { hasCode, TributaryError } from "../errors.ts";
import type { NatsLink } from "./nats-connection.ts";

/** Codes of JetStream's own errors (`err_code`), as far as decisions hang on them. Source: server/errors.json of nats-server. */
export const JS_ERROR = {
  accountResourcesExceeded: 10_002,
  insufficientResources: 10_023,
  noMessageFound: 10_037,
  storageResourcesExceeded: 10_047,
  purgeFailed: 10_051,
  streamNameExists: 10_058,
  streamNotFound: 10_059,
  wrongLastSequence: 10_071,
  storeFailed: 10_077,
  wrongLastSequenceConstant: 10_164,
} as const;

export interface JetStreamProblem {
  readonly code: number;
  readonly errCode: number;
  readonly description: string;
}

/** JetStream refused a request, and says why. */
export class JetStreamRefusal extends Error {
  override readonly name = "JetStreamRefusal";
  readonly problem: JetStreamProblem;

  constructor(problem: JetStreamProblem) {
    super(`JetStream: ${problem.description} (${problem.errCode})`);
    this.problem = problem;
  }
}

interface Answer {
  readonly error?: { readonly code?: number; readonly err_code?: number; readonly description?: string };
}

export function parseAnswer<T>(msg: Msg): T {
  const answer = msg.json<T & Answer>();
  if (!answer.error) return answer;
  const { code = 0, err_code: errCode = 0, description = "" } = answer.error;
  throw new JetStreamRefusal({ code, errCode, description });
}

const ATTEMPT_MS = 3_000;
const RETRY_MS = 100;

/**
 * One idempotent request to JetStream's API, repeated while nobody answers: a stream has no leader for moments when one dies.
 * @throws JetStreamRefusal; BUS_NO_RESPONDER, BUS_TIMEOUT, BUS_UNREACHABLE once `timeoutMs` is over
 */
export async function askJetStream<T>(link: NatsLink, path: string, body: unknown, timeoutMs: number): Promise<T> {
  const end = link.clock.monotonicMs() + timeoutMs;
  const payload = body === undefined ? "" : JSON.stringify(body);
  for (;;) {
    try {
      const left = end - link.clock.monotonicMs();
      return parseAnswer<T>(await link.inbox.request(`$JS.API.${path}`, payload, { timeoutMs: Math.max(1, Math.min(ATTEMPT_MS, left)) }));
    } catch (error) {
      const passing =
        hasCode(error, "BUS_NO_RESPONDER", "BUS_TIMEOUT", "BUS_UNREACHABLE") ||
        (error instanceof JetStreamRefusal && error.problem.code === 503);
      if (!passing || link.clock.monotonicMs() + RETRY_MS >= end) throw asTributaryError(error, path);
    }
    await sleep(link.clock, RETRY_MS);
  }
}

/** A refusal that stays is for the caller to read; one for want of a leader or of JetStream itself is an outage. */
function asTributaryError(error: unknown, path: string): unknown {
  if (!(error instanceof JetStreamRefusal) || error.problem.code !== 503) return error;
  return new TributaryError("BUS_NO_RESPONDER", `${path}: ${error.message}`, { errCode: error.problem.errCode }, { cause: error });
}

export interface StoredMessage {
  readonly subject: string;
  readonly seq: number;
  readonly data: Uint8Array;
  readonly headers: string;
}

interface MessageAnswer {
  readonly message: { readonly subject: string; readonly seq: number; readonly data?: string; readonly hdrs?: string };
}

export type MessageQuery =
  | { readonly seq: number }
  | { readonly seq: number; readonly next_by_subj: string }
  | { readonly last_by_subj: string };

/**
 * A message as the stream's leader has it: this API is answered by the leader alone, unlike direct get. undefined if there is none.
 * @throws as askJetStream
 */
export async function getMessage(
  link: NatsLink,
  stream: string,
  query: MessageQuery,
  timeoutMs: number,
): Promise<StoredMessage | undefined> {
  try {
    const { message } = await askJetStream<MessageAnswer>(link, `STREAM.MSG.GET.${stream}`, query, timeoutMs);
    return {
      subject: message.subject,
      seq: message.seq,
      data: fromBase64(message.data),
      headers: Buffer.from(fromBase64(message.hdrs)).toString(),
    };
  } catch (error) {
    if (error instanceof JetStreamRefusal && error.problem.errCode === JS_ERROR.noMessageFound) return undefined;
    throw error;
  }
}

function fromBase64(text: string | undefined): Uint8Array {
  if (!text) return new Uint8Array();
  // Decoded into memory of its own: small Buffers are cut from a shared pool, which a record kept for long would hold.
  const bytes = new Uint8Array(Buffer.byteLength(text, "base64"));
  return bytes.subarray(0, Buffer.from(bytes.buffer).write(text, "base64"));
}

/** Headers of one publish. */
export function headersOf(entries: Readonly<Record<string, string>>): MsgHdrs {
  const result = headers();
  for (const [key, value] of Object.entries(entries)) result.set(key, value);
  return result;
}

export interface PubAck {
  readonly stream: string;
  readonly seq: number;
}

/** The part of a stream's state and configuration that Tributary looks at. */
export interface StreamInfo {
  readonly config: Readonly<Record<string, unknown>>;
  readonly state: {
    readonly first_seq: number;
    readonly last_seq: number;
    readonly messages: number;
    readonly bytes: number;
    readonly subjects?: Readonly<Record<string, number>>;
  };
  readonly total?: number;
}

/**
 * Creates the stream or takes the one that is there, and verifies that every named setting is as wanted.
 * @throws CONFIG_INVALID with what to change
 */
export async function ensureStream(
  link: NatsLink,
  wanted: Readonly<Record<string, unknown>> & { name: string },
  timeoutMs: number,
): Promise<StreamInfo> {
  const path = `STREAM.INFO.${wanted.name}`;
  let info = await askJetStream<StreamInfo>(link, path, undefined, timeoutMs).catch((error: unknown) => {
    if (error instanceof JetStreamRefusal && error.problem.errCode === JS_ERROR.streamNotFound) return undefined;
    throw error;
  });
  if (!info) {
    try {
      info = await askJetStream<StreamInfo>(link, `STREAM.CREATE.${wanted.name}`, wanted, timeoutMs);
    } catch (error) {
      if (!(error instanceof JetStreamRefusal)) throw error;
      if (error.problem.errCode !== JS_ERROR.streamNameExists) {
        throw new TributaryError("CONFIG_INVALID", `The stream ${wanted.name} cannot be created. ${error.message}`, {}, { cause: error });
      }
      // Somebody created it in between, with another configuration: the check below tells what differs.
      info = await askJetStream<StreamInfo>(link, path, undefined, timeoutMs);
    }
  }
  const problems = findDifferences(wanted, info.config);
  if (problems.length > 0) {
    throw new TributaryError("CONFIG_INVALID", `The JetStream stream ${wanted.name} has unsafe settings: ${problems.join("; ")}`, {
      stream: wanted.name,
    });
  }
  return info;
}

/** Settings that change what is stored, when it is acknowledged or who may answer; absent means their zero value. */
const NEVER = [
  "mirror",
  "sources",
  "subject_transform",
  "no_ack",
  "sealed",
  "allow_direct",
  "mirror_direct",
  "allow_batched",
  "allow_atomic",
];

/** What must be changed before the stream may be used, in words. */
export function findDifferences(wanted: Readonly<Record<string, unknown>>, actual: Readonly<Record<string, unknown>>): string[] {
  const problems: string[] = [];
  for (const [key, value] of Object.entries(wanted)) {
    const zero = typeof value === "boolean" ? false : typeof value === "number" ? 0 : undefined;
    const found = actual[key] ?? zero;
    if (JSON.stringify(found) !== JSON.stringify(value))
      problems.push(`${key} is ${JSON.stringify(found)}, it must be ${JSON.stringify(value)}`);
  }
  for (const key of NEVER) {
    if (!(key in wanted) && actual[key]) problems.push(`${key} is ${JSON.stringify(actual[key])}, it must be off`);
  }
  if (actual["persist_mode"] === "async") problems.push('persist_mode is "async", which acknowledges before fsync; it must be "default"');
  return problems;
}
