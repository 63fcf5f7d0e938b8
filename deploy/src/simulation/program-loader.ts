import { registerHooks } from "node:module";
import { assert } from "@tributary/common/assert";
import type { Edit, Mutant } from "./mutant-table.ts";

const ROOT = new URL("../../../", import.meta.url).href;

/**
 * A third of a story's time would go into making a zstd context for each small chunk (measured: 20 µs for 200 bytes). On a wire and a
 * disk those bytes are worth it, here not: small chunks stay as they are, as incompressible ones do, and large ones are compressed.
 */
const SMALL_CHUNKS_PLAIN: Edit = {
  file: "common/src/format/compression.ts",
  find: "const COMPRESS_BYTES_MIN = 96;",
  replace: "const COMPRESS_BYTES_MIN = 2048;",
};

/**
 * From now on this thread loads the program as stories run it, or as a mutant has it. To be called before anything of the program is
 * imported.
 */
export function loadProgram(mutant: Mutant | undefined): void {
  const all = [SMALL_CHUNKS_PLAIN, ...(mutant?.edits ?? [])];
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      const edits = all.filter(({ file }) => url === ROOT + file);
      if (edits.length === 0) return loaded;
      let source = typeof loaded.source === "string" ? loaded.source : Buffer.from(loaded.source as Uint8Array).toString("utf8");
      for (const { file, find, replace } of edits) {
        const parts = source.split(find);
        assert(parts.length === 2, `what is changed must be in ${file} exactly once, it is there ${parts.length - 1} times: ${find}`);
        source = parts.join(replace);
      }
      return { ...loaded, source };
    },
  });
}
