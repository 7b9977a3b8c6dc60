// Talks to the control API: the token, requests, and the stream of states. Knows no document.

const STORED = "protomux-wakeup token";
const PATIENCE = 15_000; // ms for an answer
const SILENCE = 45_000; // ms without a byte in a stream: three of the server's signs of life
const LONGEST = 1 << 20; // characters of one event

/** The token is missing or wrong. */
export class Unauthorized extends Error {}

/** The API has refused something, and says why. */
export class Refused extends Error {}

export function keepToken(token) {
  sessionStorage.setItem(STORED, token);
}

export function dropToken() {
  sessionStorage.removeItem(STORED);
}

export function hasToken() {
  return sessionStorage.getItem(STORED) !== null;
}

async function request(path, { method = "GET", headers = {}, body, signal } = {}) {
  const token = sessionStorage.getItem(STORED) ?? "";
  // Anything else is no header, and so no token.
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Unauthorized("no token");
  const response = await fetch(path, {
    method,
    body,
    signal,
    headers: { ...headers, Authorization: `Bearer ${token}` },
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
  });
  if (response.status === 401) throw new Unauthorized("the token was not taken");
  if (!response.ok) throw new Refused(await reason(response));
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).message || `status ${response.status}`;
  } catch {
    return `status ${response.status}`;
  }
}

function soon() {
  return AbortSignal.timeout(PATIENCE);
}

export async function readLog(id) {
  const response = await request(`/b/${encodeURIComponent(id)}/log`, { signal: soon() });
  return new TextDecoder().decode(await response.arrayBuffer());
}

export async function terminate(id, hard) {
  await request(`/v2/backend/${encodeURIComponent(id)}/terminate`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ hard }),
    signal: soon(),
  });
}

/**
 * Yields {id, data} for each event of a stream later than `after`; first {ahead}: it is open, and
 * the server's clock is so many milliseconds ahead of ours.
 *
 * By fetch, since EventSource cannot show a token. Throws when the stream breaks or falls silent.
 */
export async function* events(path, after, signal) {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE);
  try {
    const response = await request(path, {
      headers: after ? { "Last-Event-ID": after } : {},
      signal: AbortSignal.any([signal, silence.signal]),
    });
    yield { ahead: ahead(response) };
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new Parser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE);
      yield* parser.feed(value);
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

function ahead(response) {
  const date = Date.parse(response.headers.get("Date") ?? "");
  // The header has whole seconds: half of one is the mean of what it leaves out.
  const found = date + 500 - Date.now();
  return Math.abs(found) > 1_000 ? found : 0;
}

/** Server-sent events, as the HTML standard has them in 9.2.6. */
export class Parser {
  #rest = "";
  #id = "";
  #data = [];

  *feed(text) {
    this.#rest += text;
    // A carriage return at the end may be the first half of a line's end.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    if (this.#rest.length > LONGEST) throw new Error("an event is too long");
    for (const line of lines) {
      if (line !== "") {
        this.#field(line);
        continue;
      }
      if (this.#data.length) {
        yield { id: this.#id, data: this.#data.join("\n") };
      }
      this.#data = [];
    }
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
  }
}
