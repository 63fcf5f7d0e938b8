import { TributaryError } from "../errors.ts";
import { type BodyBudget, type BodyLimit, takeBody } from "./body.ts";
import { parseJson } from "./json-events.ts";
import { methodNotAllowed } from "./methods.ts";
import type { Plane } from "./plane.ts";
import { replyJson } from "./reply.ts";

/** What operators may see and ask of a cluster, whichever node they reach. */
export interface ClusterManagement {
  /** Body of `GET /v1/cluster`. */
  describe(): object;
  /** Raises the number of containers; it never shrinks. Resolves with how many there are. @throws INVALID_REQUEST */
  raiseContainers(count: number): Promise<number>;
  /** Gives this node's containers away, or lets it take some again. */
  setDraining(draining: boolean): void;
}

const BODY_LIMIT: BodyLimit = { bytesMax: 4_096, code: "BATCH_TOO_LARGE" };

/** `/v1/cluster`, `/v1/cluster/containers`, `/v1/cluster/drain`; `parts` is what follows `/v1/cluster`. */
export async function handleCluster(
  { time, bodies }: Plane,
  cluster: ClusterManagement | undefined,
  parts: readonly string[],
  request: Request,
): Promise<Response> {
  if (!cluster) throw new TributaryError("NOT_FOUND", "this server is no node of a core");
  const [what] = parts;
  if (parts.length > 1) throw new TributaryError("NOT_FOUND", "no such path below /v1/cluster");
  switch (what) {
    case undefined:
      if (request.method !== "GET" && request.method !== "HEAD") throw methodNotAllowed(request.method, "GET, HEAD");
      return replyJson(200, cluster.describe());
    case "containers": {
      const count = await memberOf(request, bodies, "count");
      if (typeof count !== "number") throw new TributaryError("INVALID_REQUEST", "'count' is not a number");
      return replyJson(200, { count: await time.run(() => cluster.raiseContainers(count)) });
    }
    case "drain": {
      const draining = await memberOf(request, bodies, "draining");
      if (typeof draining !== "boolean") throw new TributaryError("INVALID_REQUEST", "'draining' is neither true nor false");
      cluster.setDraining(draining);
      return replyJson(200, { draining });
    }
    default:
      throw new TributaryError("NOT_FOUND", "no such path below /v1/cluster");
  }
}

/** The one member of the JSON object that was sent. */
async function memberOf(request: Request, bodies: BodyBudget, name: string): Promise<unknown> {
  if (request.method !== "PUT") throw methodNotAllowed(request.method, "PUT");
  const body = await takeBody(request, BODY_LIMIT, bodies);
  try {
    const value = parseJson(body.bytes);
    if (typeof value !== "object" || value === null || Array.isArray(value) || Object.keys(value).some((key) => key !== name)) {
      throw new TributaryError("INVALID_REQUEST", `the body is not a JSON object with the member '${name}'`);
    }
    return (value as Record<string, unknown>)[name];
  } finally {
    body.release();
  }
}
