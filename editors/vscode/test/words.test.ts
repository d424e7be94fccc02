import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { applied, changes } from "../src/words.ts";

const piece = fc.constantFrom("total", " ", "+=", "value", "\n", "    ", "(", ")", "é", "😀", "1");
const text = fc.array(piece, { maxLength: 20 }).map((pieces) => pieces.join(""));

test("the changes make the new text of the old one", () => {
  fc.assert(
    fc.property(text, text, (old, fresh) => {
      const found = changes(old, fresh);
      assert.equal(applied(old, found), fresh);
      for (const change of found) {
        assert.equal(fresh.startsWith(change.text, change.newStart), true);
        assert.ok(change.end > change.start || change.text !== "");
      }
    }),
  );
});

test("only the words that differ are changed", () => {
  const [change, ...others] = changes("total -= value\n", "total += value\n");
  assert.deepEqual(others, []);
  assert.deepEqual(change, { start: 6, end: 8, text: "+=", newStart: 6 });
  assert.deepEqual(changes("same", "same"), []);
});
