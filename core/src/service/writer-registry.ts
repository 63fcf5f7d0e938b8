import { toTributaryError } from "@tributary/common/errors";
import { decodeCbor, encodeCbor } from "@tributary/common/format/cbor";
import { LIMITS } from "@tributary/common/limits";
import type { Logger } from "@tributary/common/logger";
import type { Id } from "@tributary/common/names";
import type { MetaEntry } from "@tributary/common/ports/meta-store";
import type { HelloRequest } from "@tributary/common/uplink-protocol";
import { BoundedCache } from "./bounded-cache.ts";
import { changeKey, type MetaAccess } from "./meta-change.ts";

/** `writers/{writer}/{incarnation}` (CBOR map). Written once; an incarnation's parent never changes. */
interface IncarnationRecord {
  /** "" on the first start of a log. */
  readonly parent: Id;
  readonly name: string;
  readonly firstSeenMs: number;
}

/**
 * Remembers the incarnations under which each writer's log was started (rule W1). Two incarnations with one parent mean that a
 * log was started twice from one state: a clone or a restored backup.
 */
export class WriterRegistry {
  readonly #access: MetaAccess;
  readonly #log: Logger;
  readonly #seen: BoundedCache<{ readonly siblings: number }>;

  constructor(access: MetaAccess, log: Logger) {
    this.#access = access;
    this.#log = log;
    this.#seen = new BoundedCache(LIMITS.writersCountedMax);
  }

  /** Writers that said hello since the start. */
  get count(): number {
    return this.#seen.size;
  }

  /** Registers the incarnation and returns its siblings. Repeating it changes nothing. */
  async hello(request: HelloRequest): Promise<Id[]> {
    const { writer, incarnation, name } = request;
    const prefix = `writers/${writer}`;
    const own: IncarnationRecord = { parent: request.parent ?? "", name, firstSeenMs: this.#access.clock.nowMs() };
    await changeKey<void>(this.#access, `${prefix}/${incarnation}`, (entry) =>
      entry ? { type: "keep", result: undefined } : { type: "put", value: encodeCbor(own), result: () => undefined },
    );
    const others = (await this.#access.meta.list(prefix)).flatMap((entry) => {
      const other = entry.key.slice(prefix.length + 1);
      const record = this.#decode(entry);
      return other === incarnation || !record ? [] : [{ entry, incarnation: other, record }];
    });
    const siblings = others.filter(({ record }) => record.parent === own.parent).map((other) => other.incarnation);
    if (siblings.length > 0) {
      this.#log.warn("a gateway's log was started more than once from one state: a copy of it is or was alive", {
        writer,
        incarnation,
        name,
        siblings: siblings.join(" "),
      });
    }
    this.#seen.set(writer, { siblings: siblings.length });
    // By revision, for a record is written once: the clocks of nodes may be wrong, and tell nobody's age.
    others.sort((a, b) => b.entry.revision - a.entry.revision);
    await this.#forget(others.slice(LIMITS.incarnationsPerWriterMax - 1).map((other) => other.entry));
    return siblings;
  }

  /** The incarnation that just said hello is never among them. */
  async #forget(old: readonly MetaEntry[]): Promise<void> {
    for (const entry of old) {
      try {
        await this.#access.meta.delete(entry.key, entry.revision);
      } catch (error) {
        // The next hello tries again; the registration itself stands.
        this.#log.info("an old incarnation could not be forgotten", { key: entry.key, error: toTributaryError(error).code });
        return;
      }
    }
  }

  /** undefined for a damaged record: it must not keep a gateway from being served. */
  #decode(entry: MetaEntry): IncarnationRecord | undefined {
    try {
      const record = decodeCbor(entry.value) as Partial<IncarnationRecord> | null;
      const { parent, name, firstSeenMs } = record ?? {};
      if (typeof parent === "string" && typeof name === "string" && typeof firstSeenMs === "number") return { parent, name, firstSeenMs };
    } catch {
      // Not CBOR: reported like any other damage.
    }
    this.#log.error("an incarnation's record is damaged and was passed over", { key: entry.key });
    return undefined;
  }
}
