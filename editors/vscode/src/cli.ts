/** Runs the server's program for short questions: which models there are, the statistics. */

import { execFile } from "node:child_process";

const SECONDS_MAX = 20;

/** Runs the program; resolves with what it prints. Rejects with what it says of its failure. */
export function ask(program: string, args: readonly string[]): Promise<string> {
  const options = { timeout: SECONDS_MAX * 1000, maxBuffer: 1 << 22 };
  return new Promise((resolve, reject) => {
    execFile(program, args, options, (error, output, errors) => {
      if (error) {
        reject(new Error(errors.trim() || error.message));
      } else {
        resolve(output);
      }
    });
  });
}

export interface Model {
  readonly name: string;
  readonly title: string;
  readonly state: string;
  readonly isDefault: boolean;
}

/** Reads what `dlm-lsp model list --json` prints. */
export function readModels(output: string): Model[] {
  const list = (JSON.parse(output) as { models?: unknown }).models;
  return (Array.isArray(list) ? (list as Record<string, unknown>[]) : []).flatMap((one) => {
    const { name, title, state } = one;
    if (typeof name !== "string" || typeof title !== "string" || typeof state !== "string") {
      return [];
    }
    return [{ name, title, state, isDefault: one["default"] === true }];
  });
}
