/** Tells the server where the cursor has gone without typing, so that the model reads ahead there. */

import * as vscode from "vscode";
import type { Server } from "./server.ts";
import { silentBecause } from "./silence.ts";

const REST = 100; // milliseconds

export class Warm implements vscode.Disposable {
  private timer: NodeJS.Timeout | undefined;
  private lastEdit = 0;
  private readonly disposables: vscode.Disposable[];

  constructor(private readonly server: Server) {
    this.disposables = [
      vscode.workspace.onDidChangeTextDocument(() => {
        this.lastEdit = performance.now();
        clearTimeout(this.timer);
      }),
      vscode.window.onDidChangeTextEditorSelection((event) => {
        this.later(event.textEditor);
      }),
      vscode.window.onDidChangeActiveTextEditor((editor) => {
        if (editor) {
          this.later(editor);
        }
      }),
    ];
  }

  dispose(): void {
    clearTimeout(this.timer);
    for (const one of this.disposables) {
      one.dispose();
    }
  }

  private later(editor: vscode.TextEditor): void {
    clearTimeout(this.timer);
    // After an edit the server prepares by itself.
    if (performance.now() - this.lastEdit < REST || !editor.selection.isEmpty) {
      return;
    }
    this.timer = setTimeout(() => {
      const { document, selection } = editor;
      const { client } = this.server;
      if (client && editor === vscode.window.activeTextEditor && !silentBecause(document, false)) {
        const { line, character } = selection.active;
        void client.sendNotification("dlm/warm", {
          textDocument: { uri: document.uri.toString() },
          position: { line, character },
        });
      }
    }, REST);
  }
}
