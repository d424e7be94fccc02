/** Gets a model through the server, with progress and a way to cancel. */

import * as vscode from "vscode";
import { WorkDoneProgress } from "vscode-languageclient/node";
import type { Server } from "./server.ts";
import type { Status } from "./status.ts";

const TOKENS = "dlm-pull-";

let count = 0;

/** Whether a token of progress is that of a pull. */
export function isPull(token: number | string): boolean {
  return String(token).startsWith(TOKENS);
}

/** Pulls a model; the best for this machine without a name. Returns whether it is here. */
export async function pull(server: Server, status: Status, name?: string): Promise<boolean> {
  const { client } = server;
  if (!client) {
    void vscode.window.showWarningMessage("The language server is not running.");
    return false;
  }
  count += 1;
  const token = `${TOKENS}${process.pid}-${count}`;
  const options = {
    location: vscode.ProgressLocation.Notification,
    title: "Getting a model",
    cancellable: true,
  };
  return vscode.window.withProgress(options, async (progress, cancellation) => {
    let percentage = 0;
    const listener = client.onProgress(WorkDoneProgress.type, token, (value) => {
      if (value.kind === "end") {
        return;
      }
      const increment = Math.max(0, (value.percentage ?? percentage) - percentage);
      percentage += increment;
      progress.report({ increment, ...(value.message ? { message: value.message } : {}) });
      status.pulling(`${percentage} %`);
    });
    cancellation.onCancellationRequested(() => {
      server.execute("dlm.cancel", { token }).catch(() => undefined); // It has ended by itself.
    });
    try {
      const argument = name === undefined ? {} : { name };
      const result = (await server.execute("dlm.pullModel", argument, { token })) as {
        pulled?: unknown;
        name?: unknown;
        running?: unknown;
        reason?: unknown;
      } | null;
      if (result?.pulled === true) {
        await vscode.commands.executeCommand("setContext", "dlm.hasModel", true);
        void vscode.window.showInformationMessage(`${String(result.name)} is here.`);
        return true;
      }
      if (result?.running === true) {
        void vscode.window.showInformationMessage(String(result.reason));
      }
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      void vscode.window.showErrorMessage(`No model was pulled: ${why}`);
    } finally {
      listener.dispose();
      status.pulling(undefined);
    }
    return false;
  });
}
