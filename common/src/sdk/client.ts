import { hasCode, isErrorCode, TributaryError } from "../errors.ts";
import { encodeCbor } from "../format/cbor.ts";
import { LEVEL_HEADER, OWNER_HEADER } from "../http/headers.ts";
import { formatStreamName, type StreamName } from "../names.ts";
import type { ProducerToken, ReadLevel } from "../stream-service.ts";
import { Owners } from "./owners.ts";

/** An event as an application sees it. */
export interface OutgoingEvent {
  readonly key?: string | undefined;
  /** ms since 1970. */
  readonly time?: number | undefined;
  readonly data: Uint8Array;
}

/** One line of an envelope read. */
export interface EnvelopeRecord {
  readonly kind: "event" | "gap";
  readonly key: string;
  /** ms since 1970. */
  readonly time: number;
  readonly segment: string;
  readonly ordinal: number;
  /** Of the take-over under which the core appended it; a gateway has none. */
  readonly nonce?: string;
  readonly writer: string;
  readonly incarnation: string;
  readonly lane: string;
  readonly number: number;
  readonly data: Uint8Array;
  readonly gap?: { readonly first: number; readonly count: number; readonly reason: string };
}

export interface EnvelopePage {
  readonly records: readonly EnvelopeRecord[];
  readonly nextOffset: string;
  readonly upToDate: boolean;
  readonly closed: boolean;
}

export interface StreamDescription {
  readonly scope: string;
  readonly stream: string;
  readonly id: string;
  readonly contentType: string;
  readonly events: number;
  readonly closed: boolean;
  /** RFC 3339. */
  readonly createdAt: string;
  readonly firstOffset: string;
  readonly nextOffset: string;
  readonly segments: readonly { readonly id: string; readonly length: number }[];
}

/** Of a stream that nobody serves now what is in it is not known. */
export type ListedStream =
  | StreamDescription
  | (Pick<StreamDescription, "scope" | "stream" | "id" | "contentType" | "createdAt"> & UnservedStream);

interface UnservedStream {
  readonly segments: readonly { readonly id: string }[];
  readonly unserved: true;
}

export interface ReadOptions {
  readonly offset: string;
  /** Wait at the end of the stream: of a page until something comes or the server's long-poll ends, of pages until the stream is closed. */
  readonly follow?: boolean;
  readonly signal?: AbortSignal;
  /** Of a core: `tiered` sees only what is in the lake, and never has to go back. Default: what is committed. */
  readonly level?: ReadLevel | undefined;
}

export interface ClientOptions {
  /** Address of a gateway or core, such as http://127.0.0.1:8080. */
  readonly server: string;
  readonly token?: string | undefined;
  /**
   * Go straight to the core node that has a stream once an answer has named it, and follow it when it moves. Where that node does not
   * answer, the given server is asked. The token is sent to the nodes that the given server names. Default: false.
   */
  readonly followOwners?: boolean;
}

interface RequestOptions {
  readonly headers?: Record<string, string>;
  readonly body?: Uint8Array;
  readonly signal?: AbortSignal;
  /** The stream that the request is for, as its path. */
  readonly stream?: string;
  /** True where the server may carry the request out twice. */
  readonly repeatable?: boolean;
}

/** An answer that came whole. */
interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** An owner that has not answered a repeatable request for so long is given up; a long poll ends before. */
const OWNER_MS_MAX = 30_000;

/** Client of the HTTP data plane, for gateways and cores alike. Every failure is a TributaryError with the server's code. */
export class TributaryClient {
  readonly #server: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #owners: Owners | undefined;

  constructor(options: ClientOptions) {
    this.#server = options.server.replace(/\/+$/, "");
    this.#headers = options.token ? { authorization: `Bearer ${options.token}` } : {};
    this.#owners = options.followOwners ? new Owners(this.#server) : undefined;
  }

  /** Resolves with false if the stream existed with the same configuration. @throws STREAM_EXISTS, INVALID_NAME */
  async createStream(name: StreamName, options: { contentType?: string; segments?: number } = {}): Promise<boolean> {
    const headers: Record<string, string> = {};
    if (options.contentType !== undefined) headers["content-type"] = options.contentType;
    if (options.segments !== undefined) headers["tributary-segments"] = String(options.segments);
    const stream = streamPath(name);
    const response = await this.#request("PUT", stream, { headers, stream, repeatable: true });
    return response.status === 201;
  }

  async describeStream(name: StreamName): Promise<StreamDescription> {
    return (await this.#json("GET", managementPath(name))) as StreamDescription;
  }

  async listStreams(scope?: string): Promise<ListedStream[]> {
    const scopes =
      scope === undefined ? ((await this.#json("GET", "/v1/scopes")) as { scopes: { name: string }[] }).scopes.map((s) => s.name) : [scope];
    const streams: ListedStream[] = [];
    for (const each of scopes) {
      let after: string | undefined;
      do {
        const query = after === undefined ? "" : `?after=${encodeURIComponent(after)}`;
        const page = (await this.#json("GET", `/v1/scopes/${encodeURIComponent(each)}/streams${query}`)) as {
          streams: ListedStream[];
          next?: string;
        };
        streams.push(...page.streams);
        after = page.next;
      } while (after !== undefined);
    }
    return streams;
  }

  async deleteStream(name: StreamName): Promise<void> {
    const stream = streamPath(name);
    await this.#request("DELETE", stream, { stream });
  }

  /** Appends all events or none, in one request. @throws as the server answers */
  async append(name: StreamName, events: readonly OutgoingEvent[], producer?: ProducerToken): Promise<void> {
    const headers: Record<string, string> = { "content-type": "application/vnd.tributary.batch+cbor" };
    if (producer) {
      headers["producer-id"] = producer.id;
      headers["producer-epoch"] = String(producer.epoch);
      headers["producer-seq"] = String(producer.seq);
    }
    const body = encodeCbor(
      events.map(({ key, time, data }) => ({ ...(key === undefined ? {} : { key }), ...(time === undefined ? {} : { time }), data })),
    );
    const stream = streamPath(name);
    await this.#request("POST", stream, { headers, body, stream, repeatable: producer !== undefined });
  }

  /** One page of an envelope read. @throws CORE_ANSWER_INVALID where the server knows no levels, and `tiered` was asked for */
  async readPage(name: StreamName, options: ReadOptions): Promise<EnvelopePage> {
    const live = options.follow ? "&live=long-poll" : "";
    const level = options.level === undefined ? "" : `&level=${options.level}`;
    const stream = streamPath(name);
    const path = `${stream}?view=envelope&offset=${encodeURIComponent(options.offset)}${live}${level}`;
    const response = await this.#request("GET", path, {
      headers: { accept: "application/x-ndjson" },
      stream,
      repeatable: true,
      ...(options.signal ? { signal: options.signal } : {}),
    });
    if (options.level === "tiered" && response.headers.get(LEVEL_HEADER) !== options.level) {
      throw new TributaryError("CORE_ANSWER_INVALID", "the server knows no levels of reads, and may give what is not in the lake yet");
    }
    return {
      records: response.text.split("\n").flatMap((line) => (line === "" ? [] : [parseRecord(line)])),
      nextOffset: response.headers.get("stream-next-offset") ?? options.offset,
      upToDate: response.headers.has("stream-up-to-date"),
      closed: response.headers.has("stream-closed"),
    };
  }

  /** Pages from an offset on: to the end, or with `follow` until the signal aborts or the stream is closed. */
  async *readPages(name: StreamName, options: ReadOptions): AsyncGenerator<EnvelopePage> {
    let offset = options.offset;
    let live = false;
    for (;;) {
      const page = await this.readPage(name, { ...options, offset, follow: live && options.follow === true });
      yield page;
      offset = page.nextOffset;
      if (page.closed || (page.upToDate && !options.follow)) return;
      live = page.upToDate;
    }
  }

  /** What the node that answers knows of its cluster. @throws NOT_FOUND from a gateway */
  async cluster(): Promise<Record<string, unknown>> {
    return (await this.#json("GET", "/v1/cluster")) as Record<string, unknown>;
  }

  /** Resolves with the number of containers that there are now. */
  async raiseContainers(count: number): Promise<number> {
    return ((await this.#putJson("/v1/cluster/containers", { count })) as { count: number }).count;
  }

  /** The node that answers gives its containers away, or takes some again. */
  async setDraining(draining: boolean): Promise<void> {
    await this.#putJson("/v1/cluster/drain", { draining });
  }

  async #putJson(path: string, value: object): Promise<unknown> {
    const body = new TextEncoder().encode(JSON.stringify(value));
    return this.#json("PUT", path, { headers: { "content-type": "application/json" }, body });
  }

  async status(): Promise<Record<string, unknown>> {
    return (await this.#json("GET", "/status")) as Record<string, unknown>;
  }

  async #json(method: string, path: string, options?: RequestOptions): Promise<unknown> {
    const { text } = await this.#request(method, path, options);
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new TributaryError("SERVER_UNREACHABLE", `the answer to ${path} is no JSON: ${text.slice(0, 200)}`, {}, { cause: error });
    }
  }

  async #request(method: string, path: string, options: RequestOptions = {}): Promise<Answer> {
    const { stream = "", repeatable = false } = options;
    const owner = this.#owners?.of(stream);
    if (owner !== undefined) {
      try {
        return await this.#ask(owner, method, path, options);
      } catch (error) {
        if (options.signal?.aborted) throw error;
        const elsewhere = hasCode(error, "CONTAINER_NOT_OWNED", "SHUTTING_DOWN", "UNAUTHORIZED");
        const away = hasCode(error, "SERVER_UNREACHABLE");
        if (!elsewhere && !away) throw error;
        this.#owners?.forget(stream);
        // Whoever did not take the connection did not take the request.
        if (away && !repeatable && !wasRefused(error)) throw error;
      }
    }
    return this.#ask(this.#server, method, path, options);
  }

  async #ask(server: string, method: string, path: string, { headers, body, signal, stream, repeatable }: RequestOptions): Promise<Answer> {
    const isOwner = server !== this.#server;
    const signals = [...(signal ? [signal] : []), ...(isOwner && repeatable ? [AbortSignal.timeout(OWNER_MS_MAX)] : [])];
    let response: Response;
    let text: string;
    try {
      response = await fetch(`${server}${path}`, {
        method,
        headers: { ...this.#headers, ...headers },
        ...(body ? { body: body as BodyInit } : {}),
        ...(signals.length > 0 ? { signal: AbortSignal.any(signals) } : {}),
      });
      // A server may also die in the middle of its answer.
      text = await response.text();
    } catch (error) {
      if (signal?.aborted) throw error;
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
      throw new TributaryError("SERVER_UNREACHABLE", `${server} does not answer (${cause})`, {}, { cause: error });
    }
    if (stream !== undefined) this.#owners?.learn(stream, isOwner, response.headers.get(OWNER_HEADER));
    if (response.ok || response.status === 304) return { status: response.status, headers: response.headers, text };
    throw problemOf(response, text);
  }
}

/** Node says it in the cause's code, Bun in the error's own; where nobody says it, it is not known. */
function wasRefused({ cause }: TributaryError): boolean {
  const { code, cause: inner } = (cause ?? {}) as { code?: unknown; cause?: { code?: unknown } };
  return [code, inner?.code].some((each) => each === "ECONNREFUSED" || each === "ConnectionRefused");
}

function streamPath(name: StreamName): string {
  return `/v1/stream/${formatStreamName(name)}`;
}

function managementPath(name: StreamName): string {
  return `/v1/scopes/${name.scope}/streams/${name.stream}`;
}

function problemOf(response: Response, text: string): TributaryError {
  try {
    const { type, title, status, code, detail, hint, ...details } = JSON.parse(text) as Record<string, string | number | boolean>;
    if (isErrorCode(code)) return new TributaryError(code, String(detail ?? response.statusText), details);
  } catch {
    // Not a problem document: whatever stands between us and the server answered.
  }
  return new TributaryError("SERVER_UNREACHABLE", `the answer is ${response.status} ${response.statusText}: ${text.slice(0, 200)}`);
}

interface WireRecord extends Omit<EnvelopeRecord, "data" | "gap"> {
  readonly data?: string;
  readonly base64?: string;
  readonly first?: number;
  readonly count?: number;
  readonly reason?: string;
}

function parseRecord(line: string): EnvelopeRecord {
  const { base64, data, first, count, reason, ...rest } = JSON.parse(line) as WireRecord;
  const bytes = base64 === undefined ? Buffer.from(data ?? "", "utf8") : Buffer.from(base64, "base64");
  return rest.kind === "gap"
    ? { ...rest, data: bytes, gap: { first: first ?? 0, count: count ?? 0, reason: reason ?? "" } }
    : { ...rest, data: bytes };
}
