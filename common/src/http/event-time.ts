/** The end of the year 9999: what RFC 3339 can write. */
const TIME_MS_MAX = 253_402_300_799_999;

const RFC3339_PATTERN = /^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$/;

/** ms since 1970, as a number or in digits, or an RFC 3339 date (cut to ms). undefined: neither. */
export function parseEventTime(value: number | string): number | undefined {
  const ms = typeof value === "number" ? value : parseText(value);
  return Number.isSafeInteger(ms) && ms >= 0 && ms <= TIME_MS_MAX ? ms : undefined;
}

function parseText(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  if (!RFC3339_PATTERN.test(text)) return Number.NaN;
  return Math.floor(Date.parse(text.toUpperCase().replace(" ", "T")));
}
