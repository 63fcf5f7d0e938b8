import type { StreamInfo, StreamService } from "@tributary/common/stream-service";
import type { Violate } from "../check/plain.ts";

interface Told {
  /** Counts what was told of any stream. */
  readonly tick: number;
  readonly chain: number;
  readonly closed: boolean;
}

/**
 * How far each stream of the core went, as anybody was ever told: whoever asks afterwards, at whichever node, must not be told less
 * (rule W3: what is answered is durable, and its owner holds a lease).
 */
export class Freshness {
  readonly #violate: Violate;
  /** Something was lost: then less may be told than before. */
  readonly #mayForget: () => boolean;
  readonly #told = new Map<string, Told[]>();
  #tick = 0;

  constructor(violate: Violate, mayForget: () => boolean) {
    this.#violate = violate;
    this.#mayForget = mayForget;
  }

  /** The same service, listened to. */
  watch(streams: StreamService, who: string): StreamService {
    const describe = async (asked: () => Promise<StreamInfo>) => {
      const began = this.#tick;
      const info = await asked();
      this.#judge(began, info.nextOffset, info.closed, who);
      return info;
    };
    return {
      create: async (name, options) => {
        const answer = await streams.create(name, options);
        this.#tell(answer.info.nextOffset, answer.info.closed);
        return answer;
      },
      describe: (name) => describe(() => streams.describe(name)),
      list: (options) => streams.list(options),
      listScopes: () => streams.listScopes(),
      delete: (name) => streams.delete(name),
      append: async (name, request) => {
        const answer = await streams.append(name, request);
        this.#tell(answer.nextOffset, answer.closed);
        return answer;
      },
      read: async (name, request) => {
        const began = this.#tick;
        const page = await streams.read(name, request);
        // Of what is not in the lake yet readers at level tiered are told nothing.
        if (page.upToDate && request.level !== "tiered") this.#judge(began, page.nextOffset, page.closed, who);
        else this.#tell(page.nextOffset, page.closed);
        return page;
      },
      waitForData: (name, offset, options) => streams.waitForData(name, offset, options),
    };
  }

  /** `began`: what was told until then must be known. */
  #judge(began: number, offset: string, closed: boolean, who: string): void {
    const { tag, chain } = parse(offset);
    const floor = this.#told.get(tag)?.findLast((told) => told.tick <= began);
    if (floor && !this.#mayForget() && (chain < floor.chain || (floor.closed && !closed))) {
      const was = floor.closed && !closed ? "that it is closed" : `of ${floor.chain} events`;
      this.#violate(3, "answer from the past", `${who} is told of ${chain} events of ${tag}; somebody was told ${was} before`);
    }
    this.#tell(offset, closed);
  }

  #tell(offset: string, closed: boolean): void {
    const { tag, chain } = parse(offset);
    const told = this.#told.get(tag) ?? [];
    this.#told.set(tag, told);
    const last = told.at(-1);
    if (last && last.chain >= chain && (last.closed || !closed)) return;
    told.push({ tick: ++this.#tick, chain: Math.max(chain, last?.chain ?? 0), closed: closed || (last?.closed ?? false) });
  }
}

/** Offsets of the core name the chain ordinal and the stream. */
function parse(offset: string): { tag: string; chain: number } {
  const [, digits, tag = ""] = offset.split("_");
  return { tag, chain: Number(digits) };
}
