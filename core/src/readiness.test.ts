import { expect, test } from "vitest";
import type { ContainerStatus } from "./container/container.ts";
import { readiness } from "./readiness.ts";
import type { HostedStatus } from "./service/container-host.ts";
import { FakeContainer, FakeWal } from "./service/testing/fake-container.ts";

function served(container: number, problems: Partial<ContainerStatus> = {}): HostedStatus {
  const status = { ...new FakeContainer(container, 1, new FakeWal()).status(), ...problems };
  return { container, state: "serving", epoch: 1, owner: "", restarts: 0, lastError: "", status };
}
const away: HostedStatus = { ...served(7), state: "elsewhere", status: undefined };

test("a node is ready once it serves what it is to serve", () => {
  expect(readiness({ member: true, containers: [served(0), away] })).toEqual({ ready: true });
  const opening = { ...served(1), state: "opening", status: undefined } as const;
  expect(readiness({ member: true, containers: [served(0), opening] })).toEqual({ ready: false, detail: "containers not served yet: 1" });
  expect(readiness({ member: false, containers: [served(0)] }).ready).toBe(false);
});

test("a node whose logs or lake take nothing is ready all the same, and says so", () => {
  const containers = [
    served(0, { tierProblem: { step: "upload", code: "STORE_UNREACHABLE" } }),
    served(1, { logProblem: "STORAGE_FULL", tierProblem: { step: "checkpoint", code: "OVERLOADED" } }),
    served(2, { tierProblem: { step: "upload", code: "STORE_UNREACHABLE" } }),
  ];
  expect(readiness({ member: true, containers })).toEqual({
    ready: true,
    degraded: [
      "the write-ahead log takes nothing (STORAGE_FULL): containers 1",
      "the lake takes nothing (STORE_UNREACHABLE): containers 0, 2",
    ],
  });
});
