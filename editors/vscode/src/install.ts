/** Installs the language server into an environment of the extension's own. */

import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import * as path from "node:path";
import * as vscode from "vscode";
import { binFolder } from "./program.ts";
import { getOptional } from "./settings.ts";

const TOO_OLD = "import sys; sys.exit(sys.version_info < (3, 11))";

/** A program that has failed. */
class Failure extends Error {}

/** Runs a program; each line of its output goes to `onLine`. Rejects with its last lines. */
function run(
  program: string,
  args: readonly string[],
  onLine: (line: string) => void,
  cancellation: vscode.CancellationToken,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    const lines: string[] = [];
    const take = (data: Buffer) => {
      for (const line of data.toString().split("\n")) {
        if (line.trim() && !line.startsWith("WARNING:")) {
          lines.push(line.trim());
          onLine(line.trim());
        }
      }
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    const cancelled = cancellation.onCancellationRequested(() => child.kill());
    child.on("error", (error) => {
      cancelled.dispose();
      reject(new Failure(`${program} cannot be run: ${error.message}`));
    });
    child.on("close", (code) => {
      cancelled.dispose();
      if (code === 0) {
        resolve();
      } else {
        const end = lines.slice(-3).join(" ");
        reject(new Failure(end || `${program} ended with status ${code ?? "?"}.`));
      }
    });
  });
}

/** A Python that is new enough, as a command. Rejects if there is none. */
async function findPython(cancellation: vscode.CancellationToken): Promise<string> {
  const chosen = getOptional("server.python");
  const candidates = chosen !== undefined ? [chosen] : ["python3", "python"];
  for (const program of candidates) {
    try {
      await run(program, ["-I", "-c", TOO_OLD], () => undefined, cancellation);
      return program;
    } catch {
      continue; // It is missing or too old; the next may do.
    }
  }
  throw new Failure(
    chosen !== undefined
      ? `${chosen}, which dlm.server.python names, is no Python 3.11 or newer.`
      : "No Python 3.11 or newer was found; install one, or name it in dlm.server.python.",
  );
}

/** The server's package that the extension brings; undefined in a development build. */
function bundledWheel(extensionPath: string): string | undefined {
  const folder = path.join(extensionPath, "bundled");
  try {
    const name = readdirSync(folder).find((one) => one.endsWith(".whl"));
    return name === undefined ? undefined : path.join(folder, name);
  } catch {
    return undefined;
  }
}

/**
 * Makes the environment and installs the server into it; what fails or is cancelled is removed.
 * Returns whether the server is there.
 */
export async function install(
  context: vscode.ExtensionContext,
  environment: string,
  log: vscode.LogOutputChannel,
): Promise<boolean> {
  const wheel = bundledWheel(context.extensionPath);
  if (wheel === undefined) {
    void vscode.window.showErrorMessage("This build of the extension does not bring the server.");
    return false;
  }
  const options = {
    location: vscode.ProgressLocation.Notification,
    title: "Installing the language server",
    cancellable: true,
  };
  return vscode.window.withProgress(options, async (progress, cancellation) => {
    const say = (line: string) => {
      log.info(`install: ${line}`);
      progress.report({ message: line.length > 80 ? `${line.slice(0, 79)}…` : line });
    };
    try {
      say("looking for Python");
      const python = await findPython(cancellation);
      await rm(environment, { recursive: true, force: true });
      await mkdir(path.dirname(environment), { recursive: true });
      await run(python, ["-m", "venv", environment], say, cancellation);
      const bin = binFolder(environment, process.platform);
      const pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", wheel];
      await run(path.join(bin, "python"), pip, say, cancellation);
      return true;
    } catch (error) {
      await rm(environment, { recursive: true, force: true });
      if (!cancellation.isCancellationRequested) {
        const why = error instanceof Error ? error.message : String(error);
        log.error(`install: ${why}`);
        void vscode.window.showErrorMessage(`The language server was not installed: ${why}`);
      }
      return false;
    }
  });
}
