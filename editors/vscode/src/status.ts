/** The status bar item: what the server does, why nothing is shown, and the way to the menu. */

import * as vscode from "vscode";
import type { ServerStatus } from "./wire.ts";

const ICONS = {
  loading: "$(loading~spin)",
  ready: "$(sparkle)",
  busy: "$(sparkle)",
  off: "$(circle-slash)",
  error: "$(warning)",
} as const;

export class Status implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem(
    "dlm.status",
    vscode.StatusBarAlignment.Right,
    100,
  );
  private server: ServerStatus | undefined;
  private silence: string | undefined;
  private problem: string | undefined;
  private progress: string | undefined;
  private readonly onChange = new vscode.EventEmitter<void>();
  readonly changed = this.onChange.event;

  constructor() {
    this.item.name = "dlm-lsp";
    this.item.command = "dlm.showMenu";
    this.render();
    this.item.show();
  }

  /** What the server has told last. */
  get latest(): ServerStatus | undefined {
    return this.server;
  }

  get isSnoozing(): boolean {
    return this.server?.snoozedUntil !== undefined;
  }

  /** Takes what the server tells; undefined where it does not run. */
  told(status: ServerStatus | undefined): void {
    this.server = status;
    if (status) {
      this.problem = undefined;
    }
    this.render();
  }

  /** Says why nothing is suggested here; undefined if there is no reason. */
  silent(reason: string | undefined): void {
    if (this.silence !== reason) {
      this.silence = reason;
      this.render();
    }
  }

  /** Says what is wrong; undefined if nothing is. */
  failed(problem: string | undefined): void {
    this.problem = problem;
    if (problem !== undefined) {
      this.server = undefined;
    }
    this.render();
  }

  /** Shows the progress of a download; undefined at its end. */
  pulling(progress: string | undefined): void {
    this.progress = progress;
    this.render();
  }

  /** Everything in lines, for people. */
  lines(): string[] {
    const { server } = this;
    const lines: string[] = [];
    if (this.problem !== undefined) {
      lines.push(this.problem);
    }
    if (this.silence !== undefined) {
      lines.push(this.silence);
    }
    if (!server) {
      return lines.length > 0 ? lines : ["The language server is not running."];
    }
    if (server.message) {
      lines.push(server.message);
    }
    if (server.reason !== undefined && server.reason !== server.message) {
      lines.push(`Nothing was shown: ${server.reason}`);
    }
    if (server.snoozedUntil !== undefined) {
      lines.push(`Snoozing until ${new Date(server.snoozedUntil).toLocaleTimeString()}.`);
    }
    const facts: [string, string | undefined][] = [
      ["Model", server.model],
      ["Mode", server.mode],
      ["Device", server.device],
      ["Last answer", server.lastMs === undefined ? undefined : `${Math.round(server.lastMs)} ms`],
      ["Tokens per forward", server.tokensPerForward?.toFixed(1)],
    ];
    for (const [name, value] of facts) {
      if (value !== undefined) {
        lines.push(`${name}: ${value}`);
      }
    }
    return lines;
  }

  dispose(): void {
    this.item.dispose();
    this.onChange.dispose();
  }

  private render(): void {
    const { server, item } = this;
    item.text = this.text();
    item.accessibilityInformation = { label: `dlm-lsp: ${this.lines().join(" ")}` };
    const tooltip = new vscode.MarkdownString(undefined, true);
    tooltip.appendMarkdown("**dlm-lsp**\n\n");
    for (const line of this.lines()) {
      tooltip.appendText(line);
      tooltip.appendMarkdown("\n\n");
    }
    item.tooltip = tooltip;
    const isBroken = this.problem !== undefined || server?.state === "error";
    item.backgroundColor = isBroken
      ? new vscode.ThemeColor("statusBarItem.warningBackground")
      : undefined;
    this.onChange.fire();
  }

  private text(): string {
    const { server } = this;
    if (this.progress !== undefined) {
      return `$(cloud-download) dlm ${this.progress}`;
    }
    if (this.problem !== undefined) {
      return `${ICONS.error} dlm`;
    }
    if (!server) {
      return `${ICONS.off} dlm`;
    }
    if (server.snoozedUntil !== undefined) {
      return "$(bell-slash) dlm";
    }
    if (this.silence !== undefined) {
      return `${ICONS.off} dlm`;
    }
    const isTimed = server.state === "ready" && server.lastMs !== undefined;
    const latency = isTimed ? ` ${Math.round(server.lastMs)} ms` : "";
    return `${ICONS[server.state]} dlm${latency}`;
  }
}
