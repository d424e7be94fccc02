import assert from "node:assert/strict";
import { test } from "node:test";
import { findProgram, type Machine, type Wanted } from "../src/program.ts";

function machine(files: readonly string[], links: Readonly<Record<string, string>> = {}): Machine {
  return {
    platform: "linux",
    pathVariable: "/usr/bin:relative:/project/bin",
    home: "/home/ada",
    isExecutable: (file) => files.includes(file),
    real: (file) => links[file] ?? file,
  };
}

const wanted: Wanted = {
  path: undefined,
  workspaces: ["/project"],
  isTrusted: false,
  pythonFolder: undefined,
  environment: "/home/ada/own",
};

test("the setting comes first, and is named where it cannot be run", () => {
  const found = findProgram({ ...wanted, path: "/opt/dlm-lsp" }, machine(["/opt/dlm-lsp"]));
  assert.equal(found.program, "/opt/dlm-lsp");
  const missing = findProgram({ ...wanted, path: "/opt/dlm-lsp" }, machine(["/usr/bin/dlm-lsp"]));
  assert.equal(missing.program, undefined);
  assert.match("why" in missing ? missing.why : "", /dlm\.server\.path/);
});

test("the selected Python of a trusted workspace comes before PATH", () => {
  const files = ["/project/.venv/bin/dlm-lsp", "/usr/bin/dlm-lsp"];
  const trusted = { ...wanted, isTrusted: true, pythonFolder: "/project/.venv/bin" };
  assert.equal(findProgram(trusted, machine(files)).program, files[0]);
  const strange = { ...trusted, isTrusted: false };
  assert.equal(findProgram(strange, machine(files)).program, files[1]);
});

test("a program inside a workspace that is not trusted is never run, nor a link into it", () => {
  const inside = findProgram(wanted, machine(["/project/bin/dlm-lsp"]));
  assert.equal(inside.program, undefined);
  assert.match("why" in inside ? inside.why : "", /not trusted/);
  const links = { "/usr/bin/dlm-lsp": "/project/evil" };
  assert.equal(findProgram(wanted, machine(["/usr/bin/dlm-lsp"], links)).program, undefined);
  const trusted = findProgram({ ...wanted, isTrusted: true }, machine(["/project/bin/dlm-lsp"]));
  assert.equal(trusted.program, "/project/bin/dlm-lsp");
});

test("a workspace that holds the home folder forbids nothing", () => {
  const home = { ...wanted, workspaces: ["/"] };
  assert.equal(findProgram(home, machine(["/usr/bin/dlm-lsp"])).program, "/usr/bin/dlm-lsp");
});

test("the extension's own environment comes last, and what is missing is said", () => {
  const own = "/home/ada/own/bin/dlm-lsp";
  assert.equal(findProgram(wanted, machine([own])).program, own);
  assert.equal(findProgram(wanted, machine([own, "/usr/bin/dlm-lsp"])).program, "/usr/bin/dlm-lsp");
  const none = findProgram(wanted, machine(["relative/dlm-lsp"]));
  assert.match("why" in none ? none.why : "", /not installed/);
});
