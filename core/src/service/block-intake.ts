import { hasCode } from "@tributary/common/errors";
import { type Block, decodeBlock } from "@tributary/common/format/block";
import type { Id } from "@tributary/common/names";
import { type AppendAnswer, SLICE_STATUS } from "@tributary/common/uplink-protocol";
import type { ContainerAccess } from "../routing/container-access.ts";
import type { LocalHost } from "../routing/local-containers.ts";
import { KeyedQueue } from "./keyed-queue.ts";
import type { StreamDirectory } from "./stream-directory.ts";
import { containerOf, type StreamRegistrar } from "./stream-registrar.ts";

const LOOKUPS_AT_ONCE_MAX = 32;

/** Takes blocks of gateways into containers of this node, after the streams that they name were made known there. */
export class BlockIntake {
  readonly #host: LocalHost;
  readonly #local: ContainerAccess;
  readonly #directory: StreamDirectory;
  readonly #registrar: StreamRegistrar;
  /** Blocks of one writer reach a container in the order in which they came, also while the streams of one are looked up. */
  readonly #turns = new KeyedQueue();

  constructor(host: LocalHost, local: ContainerAccess, directory: StreamDirectory, registrar: StreamRegistrar) {
    this.#host = host;
    this.#local = local;
    this.#directory = directory;
    this.#registrar = registrar;
  }

  /** @throws as Container.appendBlock */
  async take(containerId: number, payload: Uint8Array): Promise<AppendAnswer> {
    const block = decodeBlock(payload);
    const container = this.#host.get(containerId);
    const known = streamsOf(block).every((streamId) => container.knowsStream(streamId));
    const turn = `${containerId}/${block.writer}`;
    if (known && !this.#turns.busy(turn)) return container.appendBlock(block);
    const begun = await this.#turns.run(turn, async () => {
      const elsewhere = await this.#registerStreams(containerId, block);
      // Only its begin is waited for: the next block of the writer joins the same frame.
      return { answer: this.#host.get(containerId).appendBlock(block), elsewhere };
    });
    return redirect(block, await begun.answer, begun.elsewhere);
  }

  /** Makes the block's streams known to their container. Returns those that live in another one. */
  async #registerStreams(containerId: number, block: Block): Promise<ReadonlySet<Id>> {
    const container = this.#host.get(containerId);
    const elsewhere = new Set<Id>();
    const unknown = [...new Set(streamsOf(block))].filter((id) => !container.knowsStream(id));
    const register = async (id: Id) => {
      const entry = await this.#directory.findById(id);
      if (!entry) return;
      if (containerOf(entry) !== containerId) {
        elsewhere.add(id);
        return;
      }
      try {
        await this.#registrar.ensure(entry, this.#local);
      } catch (error) {
        // Deleted meanwhile: the container does not know it and says so.
        if (!hasCode(error, "STREAM_UNKNOWN")) throw error;
      }
    };
    for (let at = 0; at < unknown.length; at += LOOKUPS_AT_ONCE_MAX) {
      await Promise.all(unknown.slice(at, at + LOOKUPS_AT_ONCE_MAX).map(register));
    }
    return elsewhere;
  }
}

/** Slices of one stream mostly lie beside each other: those are named once. */
function streamsOf({ slices }: Block): Id[] {
  const ids: Id[] = [];
  for (const { streamId } of slices) if (ids.at(-1) !== streamId) ids.push(streamId);
  return ids;
}

/** The container calls a stream that it does not know gone; if the stream lives in another container, the gateway must ask there. */
function redirect(block: Block, answer: AppendAnswer, elsewhere: ReadonlySet<Id>): AppendAnswer {
  if (elsewhere.size === 0) return answer;
  return {
    slices: answer.slices.map((row, i) =>
      elsewhere.has(block.slices.at(i)?.streamId ?? "") && row[0] === SLICE_STATUS.streamGone ? [SLICE_STATUS.wrongContainer, 0] : row,
    ),
  };
}
