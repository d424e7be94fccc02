/** The commands that ask or show something: the menu of the status bar, snoozing, modes, models. */

import * as vscode from "vscode";
import { ask, readModels } from "./cli.ts";
import { MODES } from "./checks.ts";
import type { Pages } from "./pages.ts";
import { table } from "./pages.ts";
import { pull } from "./pull.ts";
import type { Server } from "./server.ts";
import { get, SECTION } from "./settings.ts";
import type { Status } from "./status.ts";

const MODE_NOTES: Readonly<Record<string, string>> = {
  auto: "what is fastest on this machine",
  ar: "token by token",
  block: "block diffusion: the draft refines in place",
  linear_spec: "drafts a block and verifies it",
  quadratic_spec: "drafts and verifies in one step",
  pruned_spec: "drafts where acceptance is likely to end",
  copy_spec: "drafts copied from the text",
};

interface Choice extends vscode.QuickPickItem {
  readonly run?: () => unknown;
}

export class Menu {
  constructor(
    private readonly server: Server,
    private readonly status: Status,
    private readonly pages: Pages,
    private readonly log: vscode.LogOutputChannel,
  ) {}

  async show(): Promise<void> {
    const command = (id: string) => () => vscode.commands.executeCommand(id);
    const language = vscode.window.activeTextEditor?.document.languageId;
    const separator = { label: "", kind: vscode.QuickPickItemKind.Separator };
    const choices: Choice[] = [
      this.status.isSnoozing
        ? { label: "$(bell) End the Snooze", run: () => this.snooze(0) }
        : { label: "$(bell-slash) Snooze…", run: command("dlm.snoozeSuggestions") },
      { label: "$(file) Toggle Suggestions in This File", run: command("dlm.toggleSuggestions") },
    ];
    if (language !== undefined) {
      choices.push({
        label: `$(code) Toggle Suggestions for ${language}`,
        run: command("dlm.toggleLanguage"),
      });
    }
    choices.push(
      separator,
      { label: "$(symbol-enum) Choose Mode…", run: command("dlm.chooseMode") },
      { label: "$(package) Choose Model…", run: command("dlm.chooseModel") },
      separator,
      { label: "$(list-flat) Show the Last Requests", run: command("dlm.showRequests") },
      { label: "$(graph) Show Statistics", run: () => this.showStatistics() },
      { label: "$(info) Show Status", run: command("dlm.showStatus") },
      { label: "$(output) Show Log", run: command("dlm.showLog") },
      { label: "$(debug-restart) Restart", run: command("dlm.restartServer") },
      {
        label: "$(settings-gear) Settings",
        run: () =>
          vscode.commands.executeCommand("workbench.action.openSettings", "@ext:dlm-lsp.dlm"),
      },
    );
    const placeHolder = this.status.lines()[0] ?? "dlm-lsp";
    const chosen = await vscode.window.showQuickPick(choices, { title: "dlm-lsp", placeHolder });
    await chosen?.run?.();
  }

  async chooseSnooze(): Promise<void> {
    const choices = [5, 10, 30, 60].map((minutes) => ({ label: `${minutes} minutes`, minutes }));
    if (this.status.isSnoozing) {
      choices.unshift({ label: "End the snooze", minutes: 0 });
    }
    const chosen = await vscode.window.showQuickPick(choices, { title: "No suggestions for" });
    if (chosen) {
      await this.snooze(chosen.minutes);
    }
  }

  async toggleFile(): Promise<void> {
    const document = vscode.window.activeTextEditor?.document;
    if (document) {
      await this.tried(this.server.execute("dlm.toggle", { uri: document.uri.toString() }));
    }
  }

  async toggleLanguage(): Promise<void> {
    const id = vscode.window.activeTextEditor?.document.languageId;
    if (id === undefined) {
      return;
    }
    const languages = get<Record<string, boolean>>("languages");
    const isOn = languages[id] ?? languages["*"] ?? true;
    const settings = vscode.workspace.getConfiguration(SECTION);
    const value = { ...languages, [id]: !isOn };
    await settings.update("languages", value, vscode.ConfigurationTarget.Global);
    const now = isOn ? "off" : "on";
    void vscode.window.showInformationMessage(`Suggestions for ${id} are ${now}.`);
  }

  async chooseMode(): Promise<void> {
    const choices = MODES.map((mode) => ({ label: mode, description: MODE_NOTES[mode] ?? "" }));
    const chosen = await vscode.window.showQuickPick(choices, { title: "Decoding mode" });
    if (chosen) {
      await this.tried(this.server.execute("dlm.setMode", { mode: chosen.label }));
    }
  }

  async chooseModel(): Promise<void> {
    const { program } = this.server;
    if (program === undefined) {
      void vscode.window.showWarningMessage("The language server is not installed.");
      return;
    }
    const output = await this.tried(ask(program, ["model", "list", "--json"]));
    if (output === undefined) {
      return;
    }
    const models = readModels(output);
    const choices = models.map((model) => ({
      label: model.name,
      description: [model.state, model.isDefault ? "used by default" : ""]
        .filter(Boolean)
        .join(", "),
      detail: model.title,
      model,
    }));
    const chosen = await vscode.window.showQuickPick(choices, { title: "Model" });
    if (!chosen) {
      return;
    }
    const isHere = ["pulled", "bundled"].includes(chosen.model.state);
    if (isHere || (await pull(this.server, this.status, chosen.label))) {
      const settings = vscode.workspace.getConfiguration(SECTION);
      await settings.update("model", chosen.label, vscode.ConfigurationTarget.Global);
    }
  }

  async showRequests(): Promise<void> {
    const answer = await this.tried(this.server.execute("dlm.requests", {}));
    const list = (answer as { requests?: unknown } | null | undefined)?.requests;
    if (answer === undefined) {
      return;
    }
    const records = Array.isArray(list) ? (list as Record<string, unknown>[]) : [];
    const text =
      records.length > 0
        ? `The last requests of this session. Nothing of your text is kept.\n\n${table(records)}\n`
        : "Nothing was asked for yet.\n";
    await this.pages.show("Last requests", text);
  }

  async showStatistics(): Promise<void> {
    const { program } = this.server;
    const text = program === undefined ? undefined : await this.tried(ask(program, ["stats"]));
    if (text !== undefined) {
      await this.pages.show("Statistics", text);
    }
  }

  async showStatus(): Promise<void> {
    const { program } = this.server;
    const lines = [
      ...this.status.lines(),
      ...(program === undefined ? [] : [`Program: ${program}`]),
    ];
    await this.pages.show("Status", `${lines.join("\n")}\n`);
  }

  showLog(): void {
    this.log.show();
  }

  private async snooze(minutes: number): Promise<void> {
    await this.tried(this.server.execute("dlm.snooze", { minutes }));
  }

  /** What a promise gives; where it fails, the user is told why. */
  private async tried<T>(work: Promise<T>): Promise<T | undefined> {
    try {
      return await work;
    } catch (error) {
      void vscode.window.showErrorMessage(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }
}
