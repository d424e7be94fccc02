import assert from "node:assert/strict";
import { test } from "node:test";
import { asContent, firstLine } from "../src/drafts.ts";
import { table } from "../src/pages.ts";

test("only the first line of a draft is drawn, and what of it is decided", () => {
  const line = (committed: string, undecided: string) => firstLine({ committed, undecided });
  assert.deepEqual(line("a", "b\nc"), { committed: "a", undecided: "b" });
  assert.deepEqual(line("a\nb", "c"), { committed: "a", undecided: "" });
  assert.deepEqual(line("", "\nc"), { committed: "", undecided: "" });
});

test("blanks are kept, and tabs are as wide as in the line", () => {
  assert.equal(asContent("a  b", 4), "a\u00a0\u00a0b");
  assert.equal(asContent("a\tb", 4), "a\u00a0\u00a0\u00a0b");
  assert.equal(asContent("\tb", 4, 3), "\u00a0b");
  assert.equal(asContent("a\r\nb", 4), "a");
});

test("records are written as a table", () => {
  const text = table([
    { mode: "ar", ms: 12.345, reason: null },
    { mode: "block", tokens: 3 },
  ]);
  assert.equal(
    text,
    "mode   ms     reason  tokens\nar     12.35  –       –\nblock  –      –       3",
  );
});
