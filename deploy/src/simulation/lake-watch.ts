import { LakeWatch as Watch } from "../check/lake-watch.ts";
import type { Ledger, Seen } from "./ledger.ts";

/** The watch of the write-ahead logs and the lake, with the ledger's words for what it sees. */
export class LakeWatch extends Watch {
  constructor(ledger: Ledger) {
    super(ledger.violate, (data) => ledger.identify(data));
  }

  judge(seen: Seen, reader: string): void {
    this.judgeRead(seen.streamId, seen, `${reader} read event ${seen.id} at ${seen.stream}`);
  }
}
