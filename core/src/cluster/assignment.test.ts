import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { assign } from "./assignment.ts";

const nodes: fc.Arbitrary<string[]> = fc.uniqueArray(fc.constantFrom("a", "b", "c", "d", "e", "f", "g"), { maxLength: 7 });
const before: fc.Arbitrary<string[]> = fc.array(fc.constantFrom("", "a", "b", "c", "d", "e", "f", "g", "gone"), { maxLength: 40 });
const containers = fc.integer({ min: 1, max: 40 });

function loads(owners: readonly string[], members: readonly string[]): number[] {
  return members.map((member) => owners.filter((owner) => owner === member).length);
}

function moves(from: readonly string[], to: readonly string[]): number {
  return to.filter((owner, container) => owner !== (from[container] ?? "")).length;
}

/** Fewest moves to loads that differ by at most one, found by trying every way of giving out the larger shares. */
function fewestMoves(from: readonly string[], members: readonly string[], count: number): number {
  const held = loads(from.slice(0, count), members);
  const share = Math.floor(count / members.length);
  let most = 0;
  for (let larger = 0; larger < 2 ** members.length; larger++) {
    const bits = members.map((_, i) => (larger >> i) & 1);
    if (bits.reduce((sum, bit) => sum + bit, 0) !== count % members.length) continue;
    most = Math.max(
      most,
      held.reduce((sum, load, i) => sum + Math.min(load, share + (bits[i] as number)), 0),
    );
  }
  return count - most;
}

describe("assign", () => {
  it("balances with the fewest moves", () => {
    fc.assert(
      fc.property(before, nodes, containers, (from, members, count) => {
        fc.pre(members.length > 0);
        const owners = assign(from, members, count, true);
        expect(owners).toHaveLength(count);
        const all = loads(owners, members);
        expect(all.reduce((sum, load) => sum + load, 0)).toBe(count);
        expect(Math.max(...all) - Math.min(...all)).toBeLessThanOrEqual(1);
        expect(moves(from, owners)).toBe(fewestMoves(from, members, count));
      }),
    );
  });

  it("without balancing moves only what nobody holds", () => {
    fc.assert(
      fc.property(before, nodes, containers, (from, members, count) => {
        const owners = assign(from, members, count, false);
        for (const [container, owner] of owners.entries()) {
          const old = from[container] ?? "";
          if (members.length === 0 || members.includes(old)) expect(owner).toBe(old);
          else expect(members).toContain(owner);
        }
      }),
    );
  });

  it("depends on nothing but its input, and leaves its own result as it is", () => {
    fc.assert(
      fc.property(before, nodes, containers, fc.boolean(), (from, members, count, balance) => {
        const owners = assign(from, members, count, balance);
        expect(assign(from, [...members].reverse(), count, balance)).toEqual(owners);
        expect(assign(owners, members, count, balance)).toEqual(owners);
      }),
    );
  });

  it.each([
    [["a", "a", "a", "a"], ["a", "b"], 4, ["a", "a", "b", "b"]],
    [["a", "a", "b", "b"], ["a", "b", "c"], 4, ["a", "c", "b", "b"]],
    [["a", "a", "b", "c"], ["b", "c"], 4, ["b", "c", "b", "c"]],
    [[], ["a"], 2, ["a", "a"]],
    [["a", "b"], ["a", "b"], 4, ["a", "b", "a", "b"]],
  ])("%j to %j", (from, members, count, expected) => {
    expect(assign(from, members, count, true)).toEqual(expected);
  });
});
