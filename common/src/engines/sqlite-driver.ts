/**
 * The seam between the SQLite engines and the binding of the runtime: better-sqlite3 on Node and Deno, bun:sqlite on Bun.
 * Everything is synchronous; blobs are Uint8Arrays; a lock that somebody else holds is reported at once, without waiting.
 */

export type SqliteValue = string | number | null | Uint8Array;
export type SqliteRow = Readonly<Record<string, SqliteValue>>;

export interface SqliteStatement {
  /** Resolves with the number of rows changed. For statements that return no rows. */
  run(...parameters: SqliteValue[]): number;
  get(...parameters: SqliteValue[]): SqliteRow | undefined;
  all(...parameters: SqliteValue[]): SqliteRow[];
}

export interface SqliteDatabase {
  /** Runs statements without parameters; their rows are dropped. */
  exec(sql: string): void;
  prepare(sql: string): SqliteStatement;
  /** Runs `work` in one write transaction: committed when it returns, rolled back when it throws. Not nested. */
  transaction<T>(work: () => T): T;
  close(): void;
}

export interface SqliteDriver {
  /** Opens the database and creates its file unless `mustExist`. The folder must be there. */
  open(path: string, options: { mustExist: boolean }): SqliteDatabase;
}

/** What the bindings have in common. */
interface NativeStatement {
  run(...parameters: unknown[]): { changes: number };
  get(...parameters: unknown[]): unknown;
  all(...parameters: unknown[]): unknown[];
  finalize?(): void;
}
interface NativeDatabase {
  exec(sql: string): unknown;
  prepare(sql: string): NativeStatement;
  close(): void;
}

/** Imported on demand: the module of one runtime does not exist on the others. */
export async function loadSqlite(): Promise<SqliteDriver> {
  if (process.versions["bun"] !== undefined) {
    const { Database } = await import("bun:sqlite");
    return { open: (path, { mustExist }) => wrap(new Database(path, { create: !mustExist, readwrite: true })) };
  }
  const { default: Database } = await import("better-sqlite3");
  return { open: (path, { mustExist }) => wrap(new Database(path, { fileMustExist: mustExist, timeout: 0 })) };
}

function wrap(native: NativeDatabase): SqliteDatabase {
  const statements: NativeStatement[] = [];
  const prepareNative = (sql: string): NativeStatement => {
    const statement = native.prepare(sql);
    statements.push(statement);
    return statement;
  };
  let begin: NativeStatement | undefined;
  let commit: NativeStatement | undefined;
  return {
    exec: (sql) => void native.exec(sql),
    prepare(sql) {
      const statement = prepareNative(sql);
      return {
        run: (...parameters) => statement.run(...parameters).changes,
        get: (...parameters) => toRow(statement.get(...parameters)),
        all: (...parameters) => statement.all(...parameters).map((row) => toRow(row) as SqliteRow),
      };
    },
    transaction(work) {
      begin ??= prepareNative("BEGIN IMMEDIATE");
      commit ??= prepareNative("COMMIT");
      begin.run();
      try {
        const result = work();
        commit.run();
        return result;
      } catch (error) {
        try {
          native.exec("ROLLBACK");
        } catch {
          // SQLite rolls back by itself after some errors (a full disk among them); then there is nothing left to roll back.
        }
        throw error;
      }
    },
    close() {
      // Bun keeps file and lock until the last statement is gone.
      for (const statement of statements) statement.finalize?.();
      native.close();
    },
  };
}

/** bun:sqlite says null for "no row"; better-sqlite3 gives blobs as Buffers. */
function toRow(row: unknown): SqliteRow | undefined {
  if (row === null || row === undefined) return undefined;
  const columns = row as Record<string, SqliteValue>;
  for (const name in columns) {
    const value = columns[name];
    if (Buffer.isBuffer(value)) columns[name] = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  }
  return columns;
}
