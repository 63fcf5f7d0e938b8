import { type Clock, sleep } from "@tributary/common/clock";
import { hasCode, TributaryError } from "@tributary/common/errors";
import type { MetaEntry, MetaStore } from "@tributary/common/ports/meta-store";
import type { Random } from "@tributary/common/random";

export interface MetaAccess {
  readonly meta: MetaStore;
  readonly clock: Clock;
  readonly random: Random;
}

/** What to do with a key: leave it and answer, replace its value, remove it, or read it again because what was read is too old. */
export type Change<T> =
  | { readonly type: "keep"; readonly result: T }
  | { readonly type: "put"; readonly value: Uint8Array; readonly result: (revision: number) => T }
  | { readonly type: "remove"; readonly result: T }
  | { readonly type: "again" };

const ATTEMPTS_MAX = 12;
const BACKOFF_MS_MAX = 500;

/**
 * Decides about one key by compare-and-set. `decide` gets what a read returned, which may be old: a `put` or `remove` that rests
 * on an old value loses and is decided again, so only `keep` must be right for old values too. After a write with an unknown
 * result `decide` sees the key again, with `mayHaveLanded`, and must recognise its own value.
 * @throws OVERLOADED when others change the key all the time; LOG_RESULT_UNKNOWN; whatever `decide` throws
 */
export async function changeKey<T>(
  access: MetaAccess,
  key: string,
  decide: (entry: MetaEntry | undefined, mayHaveLanded: boolean) => Change<T> | Promise<Change<T>>,
): Promise<T> {
  let mayHaveLanded = false;
  for (let attempt = 1; ; attempt++) {
    let lost: unknown;
    try {
      const entry = await access.meta.get(key);
      const change = await decide(entry, mayHaveLanded);
      if (change.type === "keep") return change.result;
      if (change.type === "put") {
        const revision = entry ? await access.meta.update(key, change.value, entry.revision) : await access.meta.create(key, change.value);
        return change.result(revision);
      }
      if (change.type === "remove") {
        if (entry) await access.meta.delete(key, entry.revision);
        return change.result;
      }
    } catch (error) {
      if (!hasCode(error, "META_CONFLICT", "META_EXISTS", "LOG_RESULT_UNKNOWN")) throw error;
      lost = error;
      mayHaveLanded ||= hasCode(error, "LOG_RESULT_UNKNOWN");
    }
    if (attempt === ATTEMPTS_MAX) {
      if (hasCode(lost, "LOG_RESULT_UNKNOWN")) throw lost;
      throw new TributaryError("OVERLOADED", `'${key}' changes faster than it can be written`, { key }, { cause: lost });
    }
    // Jitter, because two who lose against each other would otherwise meet again.
    await sleep(access.clock, Math.min(BACKOFF_MS_MAX, 2 ** attempt) * (0.5 + access.random.float()));
  }
}
