import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32c } from "@tributary/common/checksum";
import { createFolderSync } from "@tributary/common/engines/fs-durability";

/** Puts damaged records into files of their own, named by sequence and checksum: the same one is put aside once, however often it is met. */
export function quarantineFolder(folder: string): (seq: number, data: Uint8Array) => string {
  return (seq, data) => {
    const path = join(folder, `edge-record-${seq}-${crc32c(data).toString(16).padStart(8, "0")}.bin`);
    try {
      createFolderSync(folder);
      if (!existsSync(path)) writeFileSync(path, data);
    } catch {
      // A full disk must not keep the gateway from going on; the record is counted all the same.
    }
    return folder;
  };
}
