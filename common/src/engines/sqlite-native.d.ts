// The parts of the two SQLite bindings that sqlite-driver.ts uses; written by hand, because their type packages declare globals.

declare module "better-sqlite3" {
  interface Statement {
    readonly reader: boolean;
    run(...parameters: unknown[]): { changes: number };
    get(...parameters: unknown[]): unknown;
    all(...parameters: unknown[]): unknown[];
  }
  export default class Database {
    constructor(path: string, options: { fileMustExist: boolean; timeout: number });
    exec(sql: string): unknown;
    prepare(sql: string): Statement;
    close(): void;
  }
}

declare module "bun:sqlite" {
  interface Statement {
    run(...parameters: unknown[]): { changes: number };
    get(...parameters: unknown[]): unknown;
    all(...parameters: unknown[]): unknown[];
    finalize(): void;
  }
  export class Database {
    constructor(path: string, options: { create: boolean; readwrite: boolean });
    exec(sql: string): unknown;
    prepare(sql: string): Statement;
    close(): void;
  }
}
