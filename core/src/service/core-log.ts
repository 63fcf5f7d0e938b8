/** Where the core reports what an operator should know. Values are plain, so that any logger can take them. */
export type CoreLog = (
  level: "info" | "warn" | "error",
  message: string,
  facts?: Readonly<Record<string, string | number | boolean>>,
) => void;
