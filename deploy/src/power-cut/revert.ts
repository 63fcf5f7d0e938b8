import {
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";

type Change =
  | { readonly type: "write"; readonly inode: bigint; readonly offset: number; readonly oldSize: number; readonly old: Uint8Array }
  | { readonly type: "create"; readonly folder: bigint; readonly path: string }
  | { readonly type: "remove"; readonly folder: bigint; readonly path: string; readonly kept: string };

export interface RevertReport {
  /** Writes, truncations and names that were not durable, and were undone. */
  readonly undone: number;
}

/** Undoes everything that the journal of unsynced.c says was not fsynced; then removes the journal. The process must be dead. */
export function revertUnsynced(folder: string, journalPath: string): RevertReport {
  const changes = existsSync(journalPath) ? pendingChanges(readFileSync(journalPath)) : [];
  const paths = pathsByInode(folder);
  for (const change of changes.reverse()) {
    if (change.type === "create") {
      // What is created anew reappears below if its removal is undone too.
      const inode = existsSync(change.path) ? statSync(change.path, { bigint: true }) : undefined;
      if (inode?.isFile()) unlinkSync(change.path);
    } else if (change.type === "remove") {
      if (!existsSync(change.path)) linkSync(change.kept, change.path);
      paths.set(statSync(change.kept, { bigint: true }).ino, change.path);
    } else {
      const path = paths.get(change.inode);
      if (path !== undefined && existsSync(path)) restore(path, change);
    }
  }
  rmSync(journalPath, { force: true });
  const prefix = `${basename(journalPath)}.kept-`;
  for (const name of readdirSync(dirname(journalPath))) if (name.startsWith(prefix)) unlinkSync(join(dirname(journalPath), name));
  return { undone: changes.length };
}

function restore(path: string, change: Change & { type: "write" }): void {
  const file = openSync(path, "r+");
  try {
    if (change.old.length > 0) writeSync(file, change.old, 0, change.old.length, change.offset);
    ftruncateSync(file, change.oldSize);
  } finally {
    closeSync(file);
  }
}

class JournalEnd extends Error {}

function pendingChanges(journal: Buffer): Change[] {
  let changes: Change[] = [];
  let at = 0;
  // A record cut off by the kill announces a change that was never made: the journal ends before it.
  const take = (length: number): Buffer => {
    if (at + length > journal.length) throw new JournalEnd();
    at += length;
    return journal.subarray(at - length, at);
  };
  const u64 = () => take(8).readBigUInt64LE();
  const u32 = () => take(4).readUInt32LE();
  const bytes = take;
  try {
    while (at < journal.length) {
      const kind = String.fromCharCode(journal[at++] as number);
      if (kind === "W") {
        const [inode, offset, oldSize] = [u64(), Number(u64()), Number(u64())];
        changes.push({ type: "write", inode, offset, oldSize, old: bytes(u32()) });
      } else if (kind === "S") {
        const inode = u64();
        changes = changes.filter((change) => (change.type === "write" ? change.inode : change.folder) !== inode);
      } else if (kind === "C") {
        const folder = u64();
        changes.push({ type: "create", folder, path: bytes(u32()).toString() });
      } else if (kind === "U") {
        const folder = u64();
        const path = bytes(u32()).toString();
        changes.push({ type: "remove", folder, path, kept: bytes(u32()).toString() });
      } else throw new Error(`the journal is damaged at byte ${at - 1}`);
    }
  } catch (error) {
    if (!(error instanceof JournalEnd)) throw error;
  }
  return changes;
}

function pathsByInode(folder: string): Map<bigint, string> {
  const paths = new Map<bigint, string>();
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) for (const [inode, inner] of pathsByInode(path)) paths.set(inode, inner);
    else if (entry.isFile()) paths.set(statSync(path, { bigint: true }).ino, path);
  }
  return paths;
}
