import { type Context, Hono } from "hono";
import type { Clock } from "../clock.ts";
import { TributaryError, toTributaryError } from "../errors.ts";
import { LIMITS } from "../limits.ts";
import { DEFAULT_SCOPE, type StreamName, streamName } from "../names.ts";
import type { Random } from "../random.ts";
import type { StreamService } from "../stream-service.ts";
import { AccessPolicy, addCorsHeaders, preflightHeaders } from "./access.ts";
import { handleAppend } from "./append.ts";
import { BodyBudget } from "./body.ts";
import { type ClusterManagement, handleCluster } from "./cluster.ts";
import { handleCreate } from "./create.ts";
import { LEVEL_HEADER, OWNER_HEADER } from "./headers.ts";
import { handleManagement } from "./management.ts";
import { methodNotAllowed } from "./methods.ts";
import type { Plane } from "./plane.ts";
import { problemResponse } from "./problem.ts";
import { handleRead, readLevel } from "./read.ts";
import { reply, replyJson } from "./reply.ts";
import { TimedStreams, WorkTime } from "./work-time.ts";

export interface DataPlaneOptions {
  readonly streams: StreamService;
  readonly clock: Clock;
  readonly random: Random;
  /** undefined: everyone who reaches the server may use it. */
  readonly bearerToken?: string;
  readonly serverName: string;
  readonly side: "gateway" | "core";
  /** Whether the server can do its work now, and why not. Default: it can. */
  readonly ready?: () => Readiness | Promise<Readiness>;
  /** Prometheus text of `/metrics`. Default: the path does not exist. */
  readonly metricsText?: () => Promise<string>;
  /** Body of `/status`. Default: name and side alone. */
  readonly status?: () => unknown;
  /** Where the stream is served, if that is another server: told to clients, so that they can go there. Default: it is here. */
  readonly ownerUrl?: (name: StreamName) => Promise<string | undefined>;
  /** Behind `/v1/cluster`. Default: the path does not exist. */
  readonly cluster?: ClusterManagement;
  readonly longPollMsMax?: number;
  /** How long it works for one request (see WorkTime). Default: as long as its streams take. */
  readonly requestMsMax?: number;
  /** Where defects are reported. Default: standard error. */
  readonly reportError?: (error: unknown) => void;
}

export interface Readiness {
  readonly ready: boolean;
  /** Why it is not. */
  readonly detail?: string;
  /** What is out of order although it is. */
  readonly degraded?: readonly string[];
}

/** What the server gives to each request: a signal that it is closing. */
export interface DataPlaneEnv {
  Bindings: { closing?: AbortSignal };
}

type PlaneContext = Context<DataPlaneEnv>;
type Handler = (plane: Plane, request: Request, path: string, closing: AbortSignal | undefined) => Response | Promise<Response>;

const FOREIGN_ORIGIN = "without a configured token only pages from this machine may ask; configure a bearer token";

const STREAM_PREFIX = "/v1/stream/";
const SCOPES_PREFIX = "/v1/scopes";
const CLUSTER_PREFIX = "/v1/cluster";

/** The HTTP data plane of PROTOCOL.md over a StreamService, as a web-standard application. */
export function createDataPlane(options: DataPlaneOptions): Hono<DataPlaneEnv> {
  const access = new AccessPolicy(options.bearerToken);
  const { streams, requestMsMax = Number.POSITIVE_INFINITY } = options;
  const shared: Omit<Plane, "streams" | "time"> = {
    clock: options.clock,
    random: options.random,
    bodies: new BodyBudget(LIMITS.requestBytesInFlightMax),
    longPollMsMax: options.longPollMsMax ?? LIMITS.longPollMsMax,
    cacheScope: access.guarded ? "private" : "public",
    reportError: options.reportError ?? ((error) => console.error(error)),
  };
  const newPlane = (): Plane => {
    const time = new WorkTime(options.clock, requestMsMax);
    return { ...shared, time, streams: options.requestMsMax === undefined ? streams : new TimedStreams(streams, time) };
  };

  const route =
    (needsToken: boolean, handler: Handler) =>
    async (c: PlaneContext): Promise<Response> => {
      const request = c.req.raw;
      const origin = request.headers.get("origin");
      const allowOrigin = origin === null ? undefined : access.allowOrigin(origin);
      let response: Response;
      try {
        // A browser that finds no Access-Control-Allow-Origin here does not send what it asks for.
        if (request.method === "OPTIONS") response = reply(204, null, preflightHeaders());
        else {
          if (origin !== null && allowOrigin === undefined) throw new TributaryError("UNAUTHORIZED", FOREIGN_ORIGIN);
          if (needsToken) access.assertToken(request.headers);
          response = await handler(newPlane(), request, c.req.path, c.env?.closing);
        }
      } catch (error) {
        response = failed(shared, error);
      }
      if (allowOrigin !== undefined) addCorsHeaders(response, allowOrigin);
      return response;
    };

  const app = new Hono<DataPlaneEnv>();
  app.all(
    `${STREAM_PREFIX}*`,
    route(true, async (plane, request, path, closing) => {
      const name = streamOfPath(path);
      const response = await streamRequest(plane, name, request, closing).catch((error: unknown) => failed(plane, error));
      const { ownerUrl } = options;
      const owner = ownerUrl && (await plane.time.run(() => ownerUrl(name)).catch(() => undefined));
      if (owner !== undefined && URL.canParse(owner)) response.headers.set(OWNER_HEADER, new URL(owner).origin);
      return response;
    }),
  );
  const management = route(true, (plane, request, path) => handleManagement(plane, splitPath(path, SCOPES_PREFIX), request));
  app.all(SCOPES_PREFIX, management);
  app.all(`${SCOPES_PREFIX}/*`, management);
  const cluster = route(true, (plane, request, path) => handleCluster(plane, options.cluster, splitPath(path, CLUSTER_PREFIX), request));
  app.all(CLUSTER_PREFIX, cluster);
  app.all(`${CLUSTER_PREFIX}/*`, cluster);
  app.all(
    "/health",
    route(false, (_plane, request) => get(request, () => replyJson(200, { status: "ok", ...identity(options) }))),
  );
  app.all(
    "/ready",
    route(false, (_plane, request, _path, closing) => get(request, () => readiness(options, closing))),
  );
  app.all(
    "/status",
    route(true, (_plane, request) => get(request, () => replyJson(200, { ...identity(options), ...statusOf(options) }))),
  );
  app.all(
    "/metrics",
    route(true, (_plane, request) => get(request, () => metrics(options))),
  );
  app.notFound(
    route(false, (_plane, _request, path) => {
      throw new TributaryError("NOT_FOUND", `there is nothing at ${path.slice(0, 200)}`);
    }),
  );
  return app;
}

function failed({ reportError }: Pick<Plane, "reportError">, error: unknown): Response {
  const known = toTributaryError(error);
  if (known.code === "INTERNAL") reportError(error);
  return problemResponse(known);
}

function get(request: Request, answer: () => Response | Promise<Response>): Response | Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") throw methodNotAllowed(request.method, "GET, HEAD");
  return answer();
}

function identity({ serverName, side }: DataPlaneOptions): { server: string; side: string } {
  return { server: serverName, side };
}

function statusOf(options: DataPlaneOptions): object {
  return { status: options.status?.() ?? null };
}

async function readiness(options: DataPlaneOptions, closing: AbortSignal | undefined): Promise<Response> {
  const { ready, detail, degraded }: Readiness = closing?.aborted
    ? { ready: false, detail: "the server is stopping" }
    : ((await options.ready?.()) ?? { ready: true });
  return replyJson(ready ? 200 : 503, { ready, ...(detail !== undefined && { detail }), ...(degraded && { degraded }) });
}

async function metrics(options: DataPlaneOptions): Promise<Response> {
  if (options.metricsText === undefined) throw new TributaryError("NOT_FOUND", "this server has no metrics");
  return reply(200, await options.metricsText(), {
    "Content-Type": "text/plain; version=0.0.4; charset=utf-8",
    "Cache-Control": "no-store",
  });
}

/** The parts of the path behind a prefix, decoded. @throws NOT_FOUND */
function splitPath(path: string, prefix: string): string[] {
  const rest = path.slice(prefix.length).replace(/^\//, "");
  if (rest === "") return [];
  try {
    return rest.split("/").map((part) => (part.includes("%") ? decodeURIComponent(part) : part));
  } catch {
    throw new TributaryError("NOT_FOUND", "the path is not properly percent-encoded");
  }
}

function streamOfPath(path: string): StreamName {
  const parts = splitPath(path, STREAM_PREFIX);
  if (parts[0] === "__ds") throw new TributaryError("NOT_FOUND", "subscriptions are not supported yet");
  const [first, second] = parts;
  if (first === undefined || parts.length > 2) throw new TributaryError("NOT_FOUND", "a stream is at /v1/stream/{scope}/{stream}");
  return second === undefined ? streamName(DEFAULT_SCOPE, first) : streamName(first, second);
}

async function streamRequest(plane: Plane, name: StreamName, request: Request, closing: AbortSignal | undefined): Promise<Response> {
  if (closing?.aborted) throw new TributaryError("SHUTTING_DOWN", "the server is stopping");
  switch (request.method) {
    case "POST":
      return handleAppend(plane, name, request);
    case "GET":
      return handleRead(plane, name, request, closing);
    case "HEAD":
      return handleHead(plane, name, request);
    case "PUT":
      return handleCreate(plane, name, request);
    case "DELETE":
      await plane.streams.delete(name);
      return reply(204, null, {});
    default:
      throw methodNotAllowed(request.method, "GET, HEAD, POST, PUT, DELETE");
  }
}

async function handleHead({ streams }: Plane, name: StreamName, request: Request): Promise<Response> {
  const level = readLevel(new URL(request.url).searchParams);
  const info =
    level === undefined ? await streams.describe(name) : await streams.read(name, { offset: "now", eventsMax: 1, bytesMax: 1, level });
  const headers: Record<string, string> = {
    "Content-Type": info.contentType,
    "Stream-Next-Offset": info.nextOffset,
    "Cache-Control": "no-store",
  };
  if (info.closed) headers["Stream-Closed"] = "true";
  if (level !== undefined) headers[LEVEL_HEADER] = level;
  return reply(200, null, headers);
}
