/** Nested facts as aligned lines for people: `uplink.counters.blocksSent  730`. */
export function plainText(facts: object): string {
  const lines: [name: string, value: string][] = [];
  const walk = (value: unknown, name: string) => {
    if (typeof value !== "object" || value === null) lines.push([name, value === "" ? "-" : String(value)]);
    else if (Array.isArray(value) && value.every((item) => typeof item !== "object")) lines.push([name, value.join(" ") || "-"]);
    else for (const [key, inner] of Object.entries(value)) walk(inner, name === "" ? key : `${name}.${key}`);
  };
  walk(facts, "");
  const width = Math.max(0, ...lines.map(([name]) => name.length));
  return lines.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}
