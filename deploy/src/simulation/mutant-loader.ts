import { registerHooks } from "node:module";
import { assert } from "@tributary/common/assert";
import type { Mutant } from "./mutant-table.ts";

const ROOT = new URL("../../../", import.meta.url).href;

/** From now on this thread loads the mutant's files changed. To be called before anything of the program is imported. */
export function loadMutant(mutant: Mutant): void {
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      const edits = mutant.edits.filter(({ file }) => url === ROOT + file);
      if (edits.length === 0) return loaded;
      let source = typeof loaded.source === "string" ? loaded.source : Buffer.from(loaded.source as Uint8Array).toString("utf8");
      for (const { file, find, replace } of edits) {
        const parts = source.split(find);
        assert(
          parts.length === 2,
          `mutant '${mutant.name}': what it changes must be in ${file} exactly once, it is there ${parts.length - 1} times`,
        );
        source = parts.join(replace);
      }
      return { ...loaded, source };
    },
  });
}
