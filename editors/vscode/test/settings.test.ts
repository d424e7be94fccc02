import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { CHECKS, isLanguageOn, isSection, problemOf, put, SERVER_FIELDS } from "../src/checks.ts";

interface Property {
  default: unknown;
  enum?: string[];
}
const manifest = JSON.parse(readFileSync("package.json", "utf8")) as {
  contributes: {
    configuration: { properties: Record<string, Property> }[];
    commands: { command: string }[];
    keybindings: { command: string; key: string; when?: string }[];
  };
};
const properties = Object.assign(
  {},
  ...manifest.contributes.configuration.map((one) => one.properties),
) as Record<string, Property>;

test("every setting of the manifest is checked, and every check is of a setting", () => {
  const names = Object.keys(properties).map((name) => name.replace(/^dlm\./, ""));
  assert.deepEqual(names.sort(), Object.keys(CHECKS).sort());
  for (const field of Object.keys(SERVER_FIELDS)) {
    assert.ok(field in CHECKS, field);
  }
});

test("every default passes its check, and every choice of the manifest", () => {
  for (const [name, property] of Object.entries(properties)) {
    const short = name.replace(/^dlm\./, "");
    for (const value of [property.default, ...(property.enum ?? [])]) {
      assert.equal(problemOf(short, value), undefined, `${name}: ${JSON.stringify(value)}`);
    }
  }
});

test("a wrong setting is named with what it may be, and secrets are not shown", () => {
  assert.match(
    problemOf("delay", "soon") ?? "",
    /dlm\.delay must be "auto" or a whole number.*"soon"/,
  );
  assert.match(problemOf("limits.lines", 0) ?? "", /from 1 to 10000/);
  assert.match(problemOf("languages", { python: 1 }) ?? "", /language ids/);
  assert.match(problemOf("colour", 1) ?? "", /dlm\.colour is not a setting/);
  assert.doesNotMatch(problemOf("engine.url", "ftp://user:secret@host") ?? "", /secret/);
});

test("nothing binds Tab, and every key is bound to something that is there", () => {
  const commands = manifest.contributes.commands.map((one) => one.command);
  for (const { key, command, when } of manifest.contributes.keybindings) {
    assert.doesNotMatch(key, /\btab\b/i);
    assert.ok(commands.includes(command) || command.startsWith("editor.action."), command);
    assert.match(when ?? "", /editorTextFocus|inlineSuggestionVisible/);
  }
});

test("languages, sections and dotted names", () => {
  assert.equal(isLanguageOn({ "*": true, markdown: false }, "markdown"), false);
  assert.equal(isLanguageOn({ "*": false, python: true }, "python"), true);
  assert.equal(isLanguageOn({ "*": false }, "c"), false);
  assert.equal(isLanguageOn({}, "c"), true);
  assert.equal(isSection("silence"), true);
  assert.equal(isSection("mode"), false);
  const into = {};
  put(into, "engine.checkpoint", "x");
  put(into, "engine.threads", 2);
  assert.deepEqual(into, { engine: { checkpoint: "x", threads: 2 } });
});
