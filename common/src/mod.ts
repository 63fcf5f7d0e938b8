export { ERROR_TABLE, TributaryError } from "./errors.ts";
