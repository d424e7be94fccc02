/** Why nothing is suggested at a place. The server has reasons of its own, which its status tells. */

import * as vscode from "vscode";
import { isLanguageOn } from "./checks.ts";
import { get } from "./settings.ts";

/** The schemes of documents that are text to be written: not diffs, search results or output. */
export const SCHEMES = ["file", "untitled", "vscode-notebook-cell", "vscode-vfs", "vscode-remote"];

function isInDiff(document: vscode.TextDocument): boolean {
  const input: unknown = vscode.window.tabGroups.activeTabGroup.activeTab?.input;
  return (
    (input instanceof vscode.TabInputTextDiff || input instanceof vscode.TabInputNotebookDiff) &&
    input.modified.toString() === document.uri.toString()
  );
}

/**
 * Why a document gets no suggestions.
 *
 * @param isInvoked whether the user has asked for one, which overrules what is about typing.
 */
export function silentBecause(
  document: vscode.TextDocument,
  isInvoked: boolean,
): string | undefined {
  if (!get<boolean>("enabled")) {
    return "Switched off by dlm.enabled.";
  }
  if (!SCHEMES.includes(document.uri.scheme)) {
    return "This is no file that is written.";
  }
  if (isInvoked) {
    return undefined;
  }
  if (isInDiff(document)) {
    return "Nothing is suggested in a comparison.";
  }
  const languages = get<Record<string, boolean>>("languages");
  if (!isLanguageOn(languages, document.languageId)) {
    return `Switched off for ${document.languageId} by dlm.languages.`;
  }
  return undefined;
}
