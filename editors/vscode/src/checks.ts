/** What each setting may be, and what a wrong one is told. Knows nothing of the editor. */

export type Values = Record<string, unknown>;

interface Check {
  readonly wanted: string;
  readonly holds: (value: unknown) => boolean;
}

export const MODES = [
  "auto",
  "ar",
  "block",
  "linear_spec",
  "quadratic_spec",
  "pruned_spec",
  "copy_spec",
] as const;

const flag: Check = { wanted: "true or false", holds: (value) => typeof value === "boolean" };

function whole(least: number, most: number): Check {
  const wanted = `a whole number from ${least} to ${most}`;
  const holds = (value: unknown) =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
  return { wanted, holds };
}

function oneOf(...values: readonly string[]): Check {
  return {
    wanted: `one of ${values.join(", ")}`,
    holds: (value) => values.includes(value as string),
  };
}

function orNull(check: Check): Check {
  return {
    wanted: `${check.wanted}, or null`,
    holds: (value) => value === null || check.holds(value),
  };
}

function orAuto(check: Check): Check {
  return {
    wanted: `"auto" or ${check.wanted}`,
    holds: (value) => value === "auto" || check.holds(value),
  };
}

const someText: Check = {
  wanted: "a text that is not empty",
  holds: (value) => typeof value === "string" && value.trim() !== "",
};

const texts: Check = {
  wanted: "a list of texts",
  holds: (value) => Array.isArray(value) && value.every((one) => typeof one === "string"),
};

const probability: Check = {
  wanted: "a number from 0 to 1",
  holds: (value) => typeof value === "number" && value >= 0 && value <= 1,
};

const switches: Check = {
  wanted: "language ids with true or false",
  holds: (value) =>
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((one) => typeof one === "boolean"),
};

const url: Check = {
  wanted: "an address that begins with http:// or https://",
  holds: (value) => typeof value === "string" && /^https?:\/\/\S+$/.test(value),
};

/** The settings, without the leading `dlm.`. */
export const CHECKS: Readonly<Record<string, Check>> = {
  enabled: flag,
  languages: switches,
  draft: oneOf("live", "final"),
  delay: orAuto(whole(0, 10_000)),
  minimumLength: whole(1, 1000),
  "fill.tokens": whole(1, 4096),
  "fill.mode": oneOf(...MODES),
  "limits.lines": orNull(whole(1, 10_000)),
  "limits.tokensMax": whole(1, 4096),
  "limits.tokensMaxInvoked": whole(1, 4096),
  "silence.automatic": flag,
  "silence.comments": flag,
  "silence.strings": flag,
  "silence.globs": texts,
  "silence.ignoredFiles": flag,
  "silence.secretFiles": flag,
  "silence.confidence": orAuto(probability),
  "statistics.enabled": flag,
  "statistics.tune": flag,
  mode: oneOf(...MODES),
  model: orNull(someText),
  "context.relatedTokens": whole(0, 1_000_000),
  followUp: flag,
  syntax: flag,
  "engine.device": oneOf("auto", "cpu", "cuda"),
  "engine.threads": orNull(whole(1, 256)),
  "engine.url": orNull(url),
  "engine.token": orNull(someText),
  "server.path": orNull(someText),
  "server.args": texts,
  "server.python": orNull(someText),
  "trace.server": oneOf("off", "messages", "verbose"),
};

/** The settings that are the server's, and the names it has for them. */
export const SERVER_FIELDS: Readonly<Record<string, string>> = {
  mode: "mode",
  model: "engine.checkpoint",
  followUp: "followUp",
  syntax: "syntax",
  "limits.lines": "limits.lines",
  "limits.tokensMax": "limits.tokensMax",
  "limits.tokensMaxInvoked": "limits.tokensMaxInvoked",
  "silence.automatic": "silence.automatic",
  "silence.comments": "silence.comments",
  "silence.strings": "silence.strings",
  "silence.globs": "silence.globs",
  "silence.ignoredFiles": "silence.ignoredFiles",
  "silence.secretFiles": "silence.secretFiles",
  "silence.confidence": "silence.confidence",
  "statistics.enabled": "statistics.enabled",
  "statistics.tune": "statistics.tune",
  "context.relatedTokens": "context.relatedTokens",
  "engine.device": "engine.device",
  "engine.threads": "engine.threads",
  "engine.url": "engine.url",
  "engine.token": "engine.token",
};

/** Values that are never shown. */
const SECRET = new Set(["engine.token", "engine.url"]);

function shown(name: string, value: unknown): string {
  const written = SECRET.has(name) ? "…" : JSON.stringify(value);
  return written.length > 60 ? `${written.slice(0, 59)}…` : written;
}

/** Why a value is not one of a setting, as one sentence; undefined if it is. */
export function problemOf(name: string, value: unknown): string | undefined {
  const check = CHECKS[name];
  if (!check) {
    return `dlm.${name} is not a setting; it is ignored.`;
  }
  if (value === undefined || check.holds(value)) {
    return undefined;
  }
  return `dlm.${name} must be ${check.wanted}, not ${shown(name, value)}; it is ignored.`;
}

/** Whether a name is a section with settings, and no setting itself. */
export function isSection(name: string): boolean {
  return !(name in CHECKS) && Object.keys(CHECKS).some((one) => one.startsWith(`${name}.`));
}

/** Puts a value at a dotted name. */
export function put(into: Values, name: string, value: unknown): void {
  const parts = name.split(".");
  const last = parts.pop() ?? name;
  let section = into;
  for (const part of parts) {
    section = (section[part] ??= {}) as Values;
  }
  section[last] = value;
}

/** Whether a language has suggestions while the user types. */
export function isLanguageOn(languages: Readonly<Record<string, boolean>>, id: string): boolean {
  return languages[id] ?? languages["*"] ?? true;
}
