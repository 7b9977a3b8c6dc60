// One backend in the document: what it is called, where it is in its life, and how it came there.

import { copy, say } from "./lists.js";
import { inFull, lasting } from "./times.js";

export class Row {
  #backend;
  #parts = {};
  #spans = []; // {bar, step} of each state
  #drawn = 0;
  #end = null;

  /** `acts`: showLog(backend), end(backend). */
  constructor(backend, acts) {
    this.#backend = backend;
    this.element = copy("backend-row");
    this.element.dataset.backend = backend.id;
    const find = (selector) => this.element.querySelector(selector);
    this.#parts = {
      key: find(".key bdi"),
      badge: find(".badge"),
      since: find(".since"),
      outcome: find(".outcome"),
      tag: find(".tag bdi"),
      connections: find(".connections dd"),
      address: find(".address dd"),
      id: find(".id dd"),
      track: find(".track"),
      steps: find(".steps"),
      log: find(".show-log"),
      end: find(".end"),
    };
    this.#parts.log.addEventListener("click", () => acts.showLog(backend));
    this.#parts.end.addEventListener("click", () => acts.end(backend));
  }

  /** Shows what is known now. */
  update() {
    const backend = this.#backend;
    const parts = this.#parts;
    say(parts.key, backend.key);
    say(parts.badge, backend.status);
    parts.badge.dataset.status = backend.status;
    say(parts.outcome, backend.outcome);
    parts.outcome.hidden = backend.outcome === "";
    fact(parts.tag, backend.tag ?? "");
    fact(parts.connections, backend.hasEnded ? "" : String(backend.connections));
    fact(parts.address, backend.address ? backend.address.join(":") : "");
    fact(parts.id, backend.id);
    parts.log.setAttribute("aria-label", `Log of ${backend.key}`);
    parts.end.setAttribute("aria-label", `End ${backend.key}`);
    // Who has just ended it does not lose the place.
    if (backend.isLeaving && document.activeElement === parts.end) parts.log.focus();
    parts.end.hidden = backend.isLeaving;
    // Two states at one moment come in order, but a late one may belong between others.
    if (this.#drawn !== backend.states.length) this.#redraw();
  }

  #redraw() {
    const { track, steps } = this.#parts;
    this.#drawn = this.#backend.states.length;
    track.replaceChildren();
    steps.replaceChildren();
    this.#spans = this.#backend.spans(0).map(({ status, from }) => {
      const bar = document.createElement("div");
      bar.className = "span";
      bar.dataset.status = status;
      const label = document.createElement("span");
      label.textContent = status;
      bar.append(label);
      track.append(bar);
      const step = document.createElement("li");
      step.dataset.status = status;
      step.title = `since ${inFull(from)}`;
      const time = document.createElement("span");
      time.className = "time";
      step.append(status, " ", time);
      steps.append(step);
      return { bar, step, time };
    });
    this.#end = null;
    if (this.#backend.hasEnded) {
      this.#end = document.createElement("div");
      this.#end.className = "span end-mark";
      this.#end.dataset.status = "terminated";
      track.append(this.#end);
      const step = document.createElement("li");
      step.dataset.status = "terminated";
      step.textContent = "terminated";
      step.title = inFull(this.#backend.until(0));
      steps.append(step);
    }
  }

  /** Moves on with the time. */
  tick(axis, now) {
    const backend = this.#backend;
    // A state may have come since the last frame.
    if (this.#drawn !== backend.states.length) this.update();
    const since = backend.hasEnded
      ? `${lasting(now - backend.until(now))} ago`
      : `for ${lasting(now - (backend.states.at(-1)?.time ?? backend.created))}`;
    say(this.#parts.since, since);
    const spans = backend.spans(now);
    spans.forEach(({ from, to, isOver }, place) => {
      const { bar, time } = this.#spans[place];
      put(bar, axis, from, to);
      bar.classList.toggle("open", !isOver && !backend.hasEnded);
      say(time, lasting(to - from));
    });
    if (this.#end) put(this.#end, axis, backend.until(now), backend.until(now));
    this.#parts.track.classList.toggle("before", backend.until(now) < axis.from);
  }
}

function fact(element, text) {
  say(element, text);
  element.closest("div").hidden = text === "";
}

function put(bar, axis, from, to) {
  bar.hidden = to < axis.from;
  bar.style.left = `${axis.place(from)}%`;
  bar.style.width = `${axis.place(to) - axis.place(from)}%`;
}
