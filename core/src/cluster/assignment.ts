import type { Id } from "@tributary/common/names";

/**
 * Who is to own each container: as many as possible stay where they are. With `balance`, members end with loads that differ by at
 * most one, and no assignment with such loads moves fewer. Without it only containers move whose owner is no member any more.
 * Nobody to take them: they stay with whom they were.
 *
 * The members with the highest loads get the larger shares, so the sum of what each may keep is the greatest possible.
 */
export function assign(before: readonly Id[], members: readonly Id[], containers: number, balance: boolean): Id[] {
  const owners = Array.from({ length: containers }, (_, container) => before[container] ?? "");
  if (members.length === 0) return owners;
  const held = new Map<Id, number[]>([...members].sort().map((member) => [member, []]));
  const homeless: number[] = [];
  for (const [container, owner] of owners.entries()) (held.get(owner) ?? homeless).push(container);
  if (balance) {
    const share = Math.floor(containers / held.size);
    let larger = containers % held.size;
    for (const mine of byLoad(held).reverse()) {
      const most = share + (larger > 0 ? 1 : 0);
      if (mine.length >= most) larger--;
      homeless.push(...mine.splice(most));
    }
  }
  for (const container of homeless.sort((a, b) => a - b)) byLoad(held)[0]?.push(container);
  for (const [member, mine] of held) for (const container of mine) owners[container] = member;
  return owners;
}

/** Lowest load first; those with one load in order of their ids. */
function byLoad(held: ReadonlyMap<Id, number[]>): number[][] {
  return [...held.values()].sort((a, b) => a.length - b.length);
}
