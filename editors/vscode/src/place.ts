/** The place of a cursor in a document, as a suggestion is asked for it and judged by it. */

import * as vscode from "vscode";
import type { Now, Origin } from "./stale.ts";

/** The place that a suggestion is asked for. */
export function originAt(
  document: vscode.TextDocument,
  position: vscode.Position,
  token: string,
): Origin {
  const line = document.lineAt(position.line).text;
  return {
    uri: document.uri.toString(),
    version: document.version,
    token,
    line: position.line,
    column: position.character,
    before: line.slice(0, position.character),
    after: line.slice(position.character),
    lineCount: document.lineCount,
    changedElsewhere: false,
    sequence: 0,
  };
}

/** What is at a cursor now, for the judgement of what was asked for at `origin`. */
export function nowAt(
  document: vscode.TextDocument,
  position: vscode.Position,
  origin: Origin,
): Now {
  const uri = document.uri.toString();
  const lines: string[] = [];
  if (uri === origin.uri && position.line < document.lineCount) {
    for (let line = origin.line; line <= position.line; line++) {
      lines.push(document.lineAt(line).text);
    }
  }
  return {
    uri,
    line: position.line,
    column: position.character,
    lineCount: document.lineCount,
    lines,
  };
}

/** The text between the place that was asked about and a later one, with \n for line ends. */
export function textBetween(
  document: vscode.TextDocument,
  origin: Origin,
  end: { line: number; character: number },
): string | undefined {
  const from = new vscode.Position(origin.line, origin.column);
  const to = new vscode.Position(end.line, end.character);
  if (end.line >= document.lineCount || to.isBefore(from)) {
    return undefined;
  }
  return document.getText(new vscode.Range(from, to)).replace(/\r\n/g, "\n");
}

/** Notes whether an edit has changed other lines than the suggestion's; `added` counts the lines
 * that were added below its first since. */
export function noteChanges(
  origin: Origin,
  added: number,
  changes: readonly vscode.TextDocumentContentChangeEvent[],
): number {
  let lines = added;
  for (const { range, text } of changes) {
    if (range.start.line < origin.line || range.end.line > origin.line + lines) {
      origin.changedElsewhere = true;
    }
    lines += text.split("\n").length - 1 - (range.end.line - range.start.line);
  }
  return lines;
}
