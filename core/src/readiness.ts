import type { Readiness } from "@tributary/common/http/data-plane";
import type { CoreStatus } from "./core.ts";
import type { HostedStatus } from "./service/container-host.ts";

/**
 * Ready once this node is a member of its cluster and serves every container that it is to serve. A log or a lake that takes nothing
 * leaves it so: its containers are nowhere else, what it has can be read, and nothing is won by sending clients elsewhere or by starting it
 * again. It says that it is degraded instead.
 */
export function readiness(status: Pick<CoreStatus, "member" | "containers">): Readiness {
  if (!status.member) return { ready: false, detail: "this node does not hold its lease: the metadata store does not answer in time" };
  const waiting = status.containers.filter((hosted) => hosted.state !== "serving" && hosted.state !== "elsewhere");
  if (waiting.length > 0)
    return { ready: false, detail: `containers not served yet: ${waiting.map(({ container }) => container).join(", ")}` };
  const degraded = [
    ...problems(status.containers, (hosted) => hosted.status?.logProblem ?? "", "the write-ahead log takes nothing"),
    ...problems(status.containers, lakeProblem, "the lake takes nothing"),
  ];
  return { ready: true, ...(degraded.length > 0 && { degraded }) };
}

/** The code with which the lake refused an object last, and took none since; "" while it takes them. */
export function lakeProblem({ status }: HostedStatus): string {
  return status?.tierProblem?.step === "upload" ? status.tierProblem.code : "";
}

/** One line for each code. */
function problems(containers: readonly HostedStatus[], codeOf: (hosted: HostedStatus) => string, what: string): string[] {
  const byCode = new Map<string, number[]>();
  for (const hosted of containers) {
    const code = codeOf(hosted);
    if (code !== "") byCode.set(code, [...(byCode.get(code) ?? []), hosted.container]);
  }
  return Array.from(byCode, ([code, ids]) => `${what} (${code}): containers ${ids.join(", ")}`);
}
