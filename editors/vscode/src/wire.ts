/**
 * The server's own messages (`dlm/draft`, `dlm/status`, `dlm/refinement`), and the check of what
 * comes: whatever a message holds, a reader returns undefined rather than something half right.
 */

export interface Point {
  readonly line: number;
  readonly character: number;
}

export interface Area {
  readonly start: Point;
  readonly end: Point;
}

/** A part of a text that is not certain, in UTF-16 units. */
export interface Span {
  readonly start: number;
  readonly end: number;
  readonly confidence: number;
}

/** What every message about a request says of it. */
export interface About {
  readonly token: string | number;
  readonly uri: string;
  readonly version: number | null;
  readonly sequence: number;
}

export interface Draft extends About {
  readonly range: Area;
  readonly committed: string;
  readonly draft: string;
  readonly final: boolean;
}

export interface Refinement extends About {
  readonly range: Area;
  readonly text: string;
  readonly spans: readonly Span[];
  readonly final: boolean;
}

export const STATES = ["loading", "ready", "busy", "off", "error"] as const;
export type State = (typeof STATES)[number];

export interface ServerStatus {
  readonly state: State;
  readonly message: string;
  readonly reason: string | undefined;
  readonly mode: string | undefined;
  readonly model: string | undefined;
  readonly device: string | undefined;
  readonly lastMs: number | undefined;
  readonly tokensPerForward: number | undefined;
  readonly snoozedUntil: string | undefined;
  readonly documentsOff: readonly string[];
}

type Fields = Record<string, unknown>;

function fieldsOf(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Fields)
    : undefined;
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function point(value: unknown): Point | undefined {
  const fields = fieldsOf(value);
  const line = number(fields?.["line"]);
  const character = number(fields?.["character"]);
  const isPoint = line !== undefined && character !== undefined && line >= 0 && character >= 0;
  return isPoint ? { line, character } : undefined;
}

export function readArea(value: unknown): Area | undefined {
  const fields = fieldsOf(value);
  const start = point(fields?.["start"]);
  const end = point(fields?.["end"]);
  return start && end ? { start, end } : undefined;
}

function readAbout(fields: Fields): About | undefined {
  const token = fields["token"];
  const document = fieldsOf(fields["textDocument"]);
  const uri = text(document?.["uri"]);
  const sequence = number(fields["sequence"]);
  if ((typeof token !== "string" && typeof token !== "number") || uri === undefined) {
    return undefined;
  }
  if (sequence === undefined) {
    return undefined;
  }
  return { token, uri, version: number(document?.["version"]) ?? null, sequence };
}

function readSpans(value: unknown): Span[] {
  const spans: Span[] = [];
  for (const one of Array.isArray(value) ? value : []) {
    const fields = fieldsOf(one);
    const start = number(fields?.["start"]);
    const end = number(fields?.["end"]);
    if (start !== undefined && end !== undefined && start <= end) {
      spans.push({ start, end, confidence: number(fields?.["confidence"]) ?? 0 });
    }
  }
  return spans;
}

/** Reads the parameters of `dlm/draft`. */
export function readDraft(params: unknown): Draft | undefined {
  const fields = fieldsOf(params);
  const about = fields && readAbout(fields);
  const range = readArea(fields?.["range"]);
  const committed = text(fields?.["committed"]);
  const draft = text(fields?.["draft"]);
  if (!about || !range || committed === undefined || draft === undefined) {
    return undefined;
  }
  return { ...about, range, committed, draft, final: fields["final"] === true };
}

/** Reads the parameters of `dlm/refinement`. */
export function readRefinement(params: unknown): Refinement | undefined {
  const fields = fieldsOf(params);
  const about = fields && readAbout(fields);
  const range = readArea(fields?.["range"]);
  const refined = text(fields?.["text"]);
  if (!about || !range || refined === undefined) {
    return undefined;
  }
  const spans = readSpans(fields["spans"]);
  return { ...about, range, text: refined, spans, final: fields["final"] === true };
}

/** Reads the parameters of `dlm/status`. */
export function readStatus(params: unknown): ServerStatus | undefined {
  const fields = fieldsOf(params);
  const state = STATES.find((one) => one === fields?.["state"]);
  if (!fields || !state) {
    return undefined;
  }
  const off = Array.isArray(fields["documentsOff"]) ? (fields["documentsOff"] as unknown[]) : [];
  return {
    state,
    message: text(fields["message"]) ?? "",
    reason: text(fields["reason"]),
    mode: text(fields["mode"]),
    model: text(fields["model"]),
    device: text(fields["device"]),
    lastMs: number(fields["lastMs"]),
    tokensPerForward: number(fields["tokensPerForward"]),
    snoozedUntil: text(fields["snoozedUntil"]),
    documentsOff: off.filter((one) => typeof one === "string"),
  };
}

/** The answer of `dlm.fill`, `dlm.refine`: an edit of one document, or why there is none. */
export interface EditAnswer {
  readonly edits: readonly { readonly range: Area; readonly text: string }[];
  readonly reason: string | undefined;
}

/** Reads the answer of a command that edits, as far as it is about one document. */
export function readEditAnswer(result: unknown, uri: string): EditAnswer {
  const fields = fieldsOf(result);
  const edit = fieldsOf(fields?.["edit"]);
  const given: unknown[] = [];
  for (const one of Array.isArray(edit?.["documentChanges"]) ? edit["documentChanges"] : []) {
    const change = fieldsOf(one);
    if (fieldsOf(change?.["textDocument"])?.["uri"] === uri && Array.isArray(change?.["edits"])) {
      given.push(...(change["edits"] as unknown[]));
    }
  }
  const changes = fieldsOf(edit?.["changes"])?.[uri];
  given.push(...(Array.isArray(changes) ? (changes as unknown[]) : []));
  const edits = given.flatMap((one) => {
    const range = readArea(fieldsOf(one)?.["range"]);
    const newText = text(fieldsOf(one)?.["newText"]);
    return range && newText !== undefined ? [{ range, text: newText }] : [];
  });
  return { edits, reason: text(fields?.["reason"]) };
}
