// The page: asks for the token, keeps what is shown in step with what happens.

import { dropToken, hasToken, keepToken, Unauthorized } from "./api.js";
import { Dialogs } from "./dialogs.js";
import { Link } from "./link.js";
import { arrange, say } from "./lists.js";
import { Backends } from "./model.js";
import { Row } from "./row.js";
import { showService } from "./service.js";
import { Axis, timeOfDay } from "./times.js";

const MORE = 20; // ended backends that are shown, and then more of them
const SPOKEN = 3; // changes that are spoken one by one

const by = (id) => document.getElementById(id);

class Page {
  #backends = new Backends();
  #rows = new Map();
  #shown = [];
  #limit = MORE;
  #ahead = 0; // ms that the server's clock is ahead of ours
  #link = null;
  #isLive = false;
  #isFirst = true; // what comes next is all that there is
  #changes = [];
  #frame = 0;
  #dialogs = new Dialogs((error, what) => this.#failed(error, what));

  constructor() {
    by("unlock").addEventListener("submit", (event) => this.#unlock(event));
    by("lock").addEventListener("click", () => this.#lock(""));
    by("retry").addEventListener("click", () => this.#link?.retry());
    by("dismiss").addEventListener("click", () => (by("failure").hidden = true));
    by("find").addEventListener("input", () => {
      this.#limit = MORE;
      this.#draw();
    });
    by("range").addEventListener("change", () => this.#draw());
    by("more").addEventListener("click", () => {
      this.#limit += MORE;
      this.#draw();
    });
    addEventListener("hashchange", () => takeToken() && this.#open());
    addEventListener("online", () => this.#link?.retry());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.#link?.retry();
      this.#tick();
    });
    setInterval(() => this.#tick(), 1_000);
    takeToken();
    if (hasToken()) this.#open();
    else this.#lock("");
  }

  // The token

  #unlock(event) {
    event.preventDefault();
    keepToken(by("token").value.trim());
    by("token").value = "";
    this.#open();
  }

  #lock(why) {
    dropToken();
    this.#close();
    this.#dialogs.close();
    by("content").hidden = true;
    by("lock").hidden = true;
    by("gate").hidden = false;
    by("lost").hidden = true;
    by("failure").hidden = true;
    this.#say("off", why ? "Locked" : "");
    document.title = "Backends";
    if (why) say(by("why"), why);
    by("token").toggleAttribute("aria-invalid", why !== "");
    by("token").focus();
  }

  #open() {
    this.#close();
    by("gate").hidden = true;
    by("content").hidden = false;
    by("lock").hidden = false;
    this.#say("wait", "Connecting…");
    this.#link = new Link("/overview", {
      opened: (ahead) => this.#opened(ahead),
      event: (seen) => this.#seen(seen),
      lost: () => this.#lost(),
      refused: () => this.#refused(),
    });
  }

  /** Forgets all data: the next token may be another manager's. */
  #close() {
    this.#link?.close();
    this.#link = null;
    this.#isLive = false;
    this.#backends = new Backends();
    this.#rows.clear();
    this.#shown = [];
    this.#changes = [];
    for (const id of ["running", "ended", "topics", "peers", "links"]) by(id).replaceChildren();
    by("lists").hidden = true;
    by("loading").hidden = false;
    by("backends").setAttribute("aria-busy", "true");
  }

  #refused() {
    this.#lock("That token was not taken. The manager tells the right one to whoever runs it.");
  }

  // The server

  #opened(ahead) {
    this.#ahead = ahead;
    this.#isFirst = true;
    this.#isLive = true;
    by("lost").hidden = true;
    this.#say("on", "Live");
  }

  #lost() {
    if (this.#isLive || by("lost").hidden) {
      const since = timeOfDay(Date.now());
      say(by("lost-text"), this.#isLive
        ? `Disconnected since ${since}: what is shown is as it was then. Trying again by itself.`
        : `The manager does not answer (${since}). Trying again by itself.`);
    }
    this.#isLive = false;
    by("lost").hidden = false;
    this.#say("lost", "Disconnected");
  }

  /** Takes one of what GET /overview tells. */
  #seen(seen) {
    if ("service" in seen) showService(seen.service, seen.error);
    else if ("backends" in seen) this.#changed(seen.backends, seen.gone);
    else this.#moved(seen.backend_id, seen.state);
  }

  #changed(backends, gone) {
    this.#backends.take(backends, gone, this.#isFirst);
    this.#isFirst = false;
    by("loading").hidden = true;
    by("lists").hidden = false;
    by("backends").setAttribute("aria-busy", "false");
    this.#drawSoon();
  }

  #moved(id, state) {
    const backend = this.#backends.get(id);
    const before = backend?.status;
    // Nothing but states is kept of one that ended long ago.
    if (!backend?.add(state)) return;
    if (backend.status !== before) {
      this.#changes.push(`${backend.key}: ${backend.status}`);
      this.#dialogs.moved(backend);
    }
    this.#drawSoon();
  }

  #failed(error, what) {
    if (error instanceof Unauthorized) {
      this.#refused();
      return;
    }
    say(by("failure-text"), `${what}: ${error.message}`);
    by("failure").hidden = false;
  }

  // The document

  #say(state, text) {
    by("link").dataset.link = state;
    say(by("link"), text);
  }

  #drawSoon() {
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const text = by("find").value.trim();
    const { running, ended } = this.#backends;
    const found = (list) => (text ? list.filter((backend) => backend.matches(text)) : list);
    const alive = found(running);
    const over = found(ended);
    const visible = over.slice(0, this.#limit);
    this.#shown = [...alive, ...visible];
    const rows = new Map();
    for (const backend of this.#shown) {
      const row = this.#rows.get(backend) ?? new Row(backend, this.#dialogs.acts);
      row.update();
      rows.set(backend, row);
    }
    this.#rows = rows;
    const elements = (list) => list.map((backend) => rows.get(backend).element);
    const focused = document.activeElement;
    arrange(by("running"), elements(alive));
    arrange(by("ended"), elements(visible));
    keepFocus(focused);
    empty("running", alive, text, "Nothing is running. A backend is started when a peer has news for it, or by POST /connect.");
    empty("ended", visible, text, "None has ended yet.");
    const rest = over.length - visible.length;
    by("more").hidden = rest <= 0;
    say(by("more"), `Show ${Math.min(rest, MORE)} more of ${rest}`);
    const ready = running.filter((backend) => backend.status === "ready").length;
    say(by("count-running"), String(running.length));
    say(by("count-ready"), String(ready));
    say(by("count-ended"), String(ended.length));
    document.title = `${running.length} running · Backends`;
    this.#speak();
    this.#tick();
  }

  #speak() {
    if (!this.#changes.length) return;
    const many = this.#changes.length > SPOKEN;
    say(by("spoken"), many ? `${this.#changes.length} changes of states` : this.#changes.join("; "));
    this.#changes = [];
  }

  #tick() {
    if (document.hidden || !this.#isLive) return;
    const now = Date.now() + this.#ahead;
    const range = Number(by("range").value) * 1000;
    const begun = this.#shown.map((backend) => backend.begun).filter(Number.isFinite);
    const first = Math.min(now - 10_000, ...begun);
    const axis = new Axis(range ? now - range : first - (now - first) * 0.02, now);
    by("axis").replaceChildren(
      ...axis.ticks(by("axis").clientWidth).map(({ place, text }) => {
        const tick = document.createElement("span");
        tick.textContent = text;
        tick.style.left = `${place}%`;
        return tick;
      }),
    );
    for (const row of this.#rows.values()) row.tick(axis, now);
  }
}

/** Takes a token out of the address bar, where the history would keep it. */
function takeToken() {
  const given = location.hash.slice(1);
  if (given === "" || by(given)) return false; // a place in the page
  history.replaceState(null, "", location.pathname);
  keepToken(given);
  return true;
}

function empty(id, list, text, otherwise) {
  const element = by(`${id}-empty`);
  element.hidden = list.length > 0;
  say(element, text ? `None matches “${text}”.` : otherwise);
}

/** A row that has moved to the other list takes the focus with it. */
function keepFocus(focused) {
  if (focused !== document.activeElement && focused?.isConnected) {
    focused.focus({ preventScroll: true });
  }
}

new Page();
