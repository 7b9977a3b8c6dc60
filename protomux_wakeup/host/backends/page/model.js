// What is known of the backends. Knows no server, no document.

/** As a backend goes through them, from one to a later one only. */
export const STATUSES = [
  "scheduled",
  "loading",
  "starting",
  "waiting",
  "ready",
  "terminating",
  "hard-terminating",
  "terminated",
];

const REASONS = {
  swept: "it was past one of its limits",
  external: "somebody wanted it ended",
  key_expired: "nobody held its key any more",
  lost: "what ran it is gone",
  startup_timeout: "it was not ready in time",
  internal_error: "it could not be started",
};

const KINDS = { soft: "by request", hard: "by force" };

export class Backend {
  constructor(id) {
    this.id = id;
    this.key = "";
    this.tag = null;
    this.created = Number.NaN; // ms since 1970, as all times here
    this.connections = 0;
    this.address = null;
    this.states = []; // {status, time, ...}, in order
  }

  get status() {
    return this.states.at(-1)?.status ?? "scheduled";
  }

  get hasEnded() {
    return this.status === "terminated";
  }

  /** There is nothing more to ask for. */
  get isLeaving() {
    return STATUSES.indexOf(this.status) > STATUSES.indexOf("terminating");
  }

  get begun() {
    return this.states[0]?.time ?? this.created;
  }

  /** When it ended; `now` while it has not. */
  until(now) {
    return this.hasEnded ? this.states.at(-1).time : Math.max(now, this.begun);
  }

  /** The states, each with the time at which the next one came. */
  spans(now) {
    return this.states
      .filter((state) => state.status !== "terminated")
      .map((state, place) => ({
        status: state.status,
        from: state.time,
        to: this.states[place + 1]?.time ?? Math.max(now, state.time),
        isOver: place + 1 < this.states.length,
      }));
  }

  /** Why it ended or is about to, in words; empty while it is not. */
  get outcome() {
    const state = this.states.at(-1);
    if (!state || STATUSES.indexOf(state.status) < STATUSES.indexOf("terminating")) return "";
    const { termination_reason: reason, termination_kind: kind, exit_error: isError } = state;
    if (!reason) return `it ended by itself${isError ? ", with an error" : ""}`;
    const words = [REASONS[reason] ?? String(reason), KINDS[kind] ?? ""];
    if (kind === "soft" && isError) words.push("exit not 0");
    return words.filter(Boolean).join(", ");
  }

  /** Tells whether `state` is news. */
  add(state) {
    if (this.states.some((known) => known.status === state.status)) return false;
    this.states.push({ ...state, time: Date.parse(state.time) });
    this.states.sort((one, other) => STATUSES.indexOf(one.status) - STATUSES.indexOf(other.status));
    return true;
  }

  /** Tells whether one of the words is part of what it is called. */
  matches(text) {
    const called = [this.key, this.tag ?? "", this.id, this.status].join(" ").toLowerCase();
    return text.toLowerCase().split(/\s+/).every((word) => called.includes(word));
  }
}

export class Backends {
  #all = new Map();

  /** Takes what is said of backends; where that `isAll`, there are no others. */
  take(changed, gone, isAll) {
    const before = this.#all;
    if (isAll) this.#all = new Map();
    for (const each of changed) {
      const backend = before.get(each.backend_id) ?? new Backend(each.backend_id);
      backend.key = each.key;
      backend.tag = each.tag ?? null;
      backend.created = each.created * 1000;
      backend.connections = each.connections;
      backend.address = each.address ?? null;
      backend.add(each.state);
      this.#all.set(backend.id, backend);
    }
    for (const id of gone) this.#all.delete(id);
  }

  /** The backend of that id; undefined where none is known. */
  get(id) {
    return this.#all.get(id);
  }

  get running() {
    return [...this.#all.values()]
      .filter((backend) => !backend.hasEnded)
      .sort((one, other) => other.begun - one.begun);
  }

  get ended() {
    return [...this.#all.values()]
      .filter((backend) => backend.hasEnded)
      .sort((one, other) => other.until(0) - one.until(0));
  }
}
