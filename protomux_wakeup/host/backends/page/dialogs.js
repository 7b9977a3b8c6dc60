// The two dialogs: a backend's log, and the question before it is ended.

import { readLog, terminate, Unauthorized } from "./api.js";
import { say } from "./lists.js";

const by = (id) => document.getElementById(id);

/** Colours and cursor movements of terminals, which mean nothing here. */
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;

export class Dialogs {
  #backend = null;
  #reading = 0;
  #failed;

  /** `failed(error)` is told what could not be done. */
  constructor(failed) {
    this.#failed = failed;
    /** What a row can ask for. */
    this.acts = { showLog: (backend) => this.showLog(backend), end: (backend) => this.end(backend) };
    by("ending-cancel").addEventListener("click", () => by("ending").close());
    by("ending-soft").addEventListener("click", () => this.#end(false));
    by("ending-hard").addEventListener("click", () => this.#end(true));
    by("log-close").addEventListener("click", () => by("log").close());
    by("log-again").addEventListener("click", () => this.#read());
    by("log").addEventListener("close", () => say(by("log-text"), ""));
  }

  close() {
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  }

  /** What is asked may have been answered meanwhile, and there may be more in the log. */
  moved(backend) {
    if (backend !== this.#backend) return;
    if (by("log").open) this.#read();
    if (by("ending").open) this.#offer();
  }

  end(backend) {
    this.#backend = backend;
    say(by("ending-key"), backend.key);
    by("ending").showModal();
    this.#offer();
  }

  #offer() {
    // Where it has been asked already, what is left is force.
    by("ending-soft").hidden = this.#backend.status === "terminating";
    if (this.#backend.isLeaving) by("ending").close();
  }

  async #end(hard) {
    by("ending").close();
    try {
      await terminate(this.#backend.id, hard);
    } catch (error) {
      this.#failed(error, `“${this.#backend.key}” was not ended`);
    }
  }

  showLog(backend) {
    this.#backend = backend;
    say(by("log-key"), backend.key);
    say(by("log-text"), "");
    by("log").showModal();
    this.#read();
  }

  async #read() {
    const turn = ++this.#reading;
    say(by("log-note"), "Loading…");
    let text;
    try {
      text = await readLog(this.#backend.id);
    } catch (error) {
      if (turn !== this.#reading) return;
      if (error instanceof Unauthorized) this.#failed(error, "");
      else say(by("log-note"), `The log could not be read: ${error.message}`);
      return;
    }
    if (turn !== this.#reading || !by("log").open) return;
    say(by("log-text"), text.replaceAll(ESCAPES, ""));
    const lines = text === "" ? 0 : text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
    say(by("log-note"), lines ? `${lines} ${lines === 1 ? "line" : "lines"}, the newest last` : "It has written nothing.");
    by("log-text").scrollTop = by("log-text").scrollHeight;
  }
}
