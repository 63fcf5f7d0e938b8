import { TributaryError } from "@tributary/common/errors";
import type { AppendRequest } from "@tributary/common/stream-service";
import { SLICE_STATUS } from "@tributary/common/uplink-protocol";
import { describe, expect, test } from "vitest";
import type { Container } from "../container/container.ts";
import { FakeContainer, FakeWal } from "../service/testing/fake-container.ts";
import { LocalContainers, type LocalHost } from "./local-containers.ts";

const STREAM = "ab".repeat(16);
const REQUEST: AppendRequest = { events: undefined, contentType: undefined };

/** Owns its container until its lease runs out. */
class LeasedHost implements LocalHost {
  held = true;
  readonly #container: Container;

  constructor(container: Container) {
    this.#container = container;
  }

  get(): Container {
    if (!this.held) throw new TributaryError("CONTAINER_NOT_OWNED", "the lease ran out");
    return this.#container;
  }
  ended(): AbortSignal {
    return new AbortController().signal;
  }
  onOpened(): void {}
  onTiered(): () => void {
    return () => {};
  }
}

function setUp(refusal: TributaryError) {
  const container = new FakeContainer(0, 1, new FakeWal());
  const asked = Promise.withResolvers<never>();
  container.append = () => asked.promise;
  const host = new LeasedHost(container);
  const local = new LocalContainers(host, async () => ({ slices: [[SLICE_STATUS.streamGone, 0]] }));
  return { host, local, refuse: () => asked.reject(refusal) };
}

describe("what an owner refuses for good", () => {
  const gap = new TributaryError("PRODUCER_SEQUENCE_GAP", "5 comes next", { expectedSeq: 5 });

  test("is refused while it holds its lease", async () => {
    const { local, refuse } = setUp(gap);
    const answer = local.append(0, STREAM, REQUEST);
    refuse();
    await expect(answer).rejects.toBe(gap);
  });

  test("is to be asked of the next owner if its lease ran out meanwhile", async () => {
    const { host, local, refuse } = setUp(gap);
    const answer = local.append(0, STREAM, REQUEST);
    host.held = false;
    refuse();
    await expect(answer).rejects.toMatchObject({ code: "CONTAINER_NOT_OWNED" });
  });

  test("in a gateway's block, too", async () => {
    const { host, local } = setUp(gap);
    expect(await local.appendBlock(0, new Uint8Array())).toMatchObject({ slices: [[SLICE_STATUS.streamGone, 0]] });
    const answer = local.appendBlock(0, new Uint8Array());
    host.held = false;
    await expect(answer).rejects.toMatchObject({ code: "CONTAINER_NOT_OWNED" });
  });
});

test("an append of unknown result stays unknown when the lease ran out meanwhile", async () => {
  const { host, local, refuse } = setUp(new TributaryError("LOG_RESULT_UNKNOWN", "perhaps"));
  const answer = local.append(0, STREAM, REQUEST);
  host.held = false;
  refuse();
  await expect(answer).rejects.toMatchObject({ code: "LOG_RESULT_UNKNOWN" });
});
