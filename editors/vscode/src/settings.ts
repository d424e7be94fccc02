/** The extension's settings: read once at a time, checked, and turned into the server's. */

import * as vscode from "vscode";
import { CHECKS, isSection, problemOf, put, SERVER_FIELDS, type Values } from "./checks.ts";

export const SECTION = "dlm";

/** The value of a setting, or its default where it is wrong. */
// The caller knows the type, which `checks.ts` has checked.
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters
export function get<T>(name: string, scope?: vscode.ConfigurationScope): T {
  const section = vscode.workspace.getConfiguration(SECTION, scope);
  const value = section.get(name);
  if (problemOf(name, value) === undefined) {
    return value as T;
  }
  return section.inspect(name)?.defaultValue as T;
}

/** A setting that may be null, for "not set". */
export function getOptional(name: string): string | undefined {
  return get<string | null | undefined>(name)?.trim() ?? undefined;
}

/** Whether drafts are shown before a suggestion is final. */
export function areDraftsLive(): boolean {
  // A screen reader would not read a decoration, and motion is what the user does not want.
  const isReader = vscode.workspace.getConfiguration("editor").get("accessibilitySupport") === "on";
  const isStill = vscode.workspace.getConfiguration("workbench").get("reduceMotion") === "on";
  return get("draft") === "live" && !isReader && !isStill;
}

/** What the user has set, not counting defaults. */
function given(name: string): unknown {
  const found = vscode.workspace.getConfiguration(SECTION).inspect(name);
  return found?.workspaceFolderValue ?? found?.workspaceValue ?? found?.globalValue;
}

/**
 * What the server is sent as its settings. Only what the user has set here goes to it, so that the
 * user's own file and a project's are not overridden by defaults.
 */
export function forServer(): Values {
  const values: Values = { drafts: areDraftsLive(), statusNotifications: true, delay: 0 };
  for (const [name, field] of Object.entries(SERVER_FIELDS)) {
    // A workspace that is not trusted cannot set everything: `get` knows what counts.
    const value = given(name) === undefined ? undefined : get<unknown>(name);
    if (value !== undefined && value !== null) {
      put(values, field, value);
    }
  }
  return values;
}

function wrongIn(values: Values, above: string, found: string[]): void {
  for (const [key, value] of Object.entries(values)) {
    const name = above + key;
    if (isSection(name) && typeof value === "object" && value !== null) {
      wrongIn(value as Values, `${name}.`, found);
      continue;
    }
    const problem = problemOf(name, value);
    if (problem !== undefined) {
      found.push(problem);
    }
  }
}

/** What is wrong with the settings, as sentences that name them. */
export function problems(): string[] {
  const found: string[] = [];
  const values = JSON.parse(
    JSON.stringify(vscode.workspace.getConfiguration().get(SECTION) ?? {}),
  ) as Values;
  wrongIn(values, "", found);
  return found;
}

/** The names of all settings. */
export const NAMES = Object.keys(CHECKS);
