// Keeps a stream of events up: who goes away is asked again, later each time. Knows no document.

import { events, Unauthorized } from "./api.js";

const FIRST = 500; // ms to the second attempt
const LAST = 10_000; // ms between two attempts at most

export class Link {
  #path;
  #hooks;
  #last = "";
  #stop = new AbortController();
  #wake = () => {};

  /**
   * Follows the stream at `path`. Hooks: `opened(ahead)`, for each connection, before its first
   * event; `event(data)`; `lost()`; `refused()`, the token is not taken, and that is the end.
   */
  constructor(path, hooks) {
    this.#path = path;
    this.#hooks = hooks;
    this.#run();
  }

  close() {
    this.#stop.abort();
    this.#wake();
  }

  /** Does not wait for the next attempt. */
  retry() {
    this.#wake();
  }

  async #run() {
    let pause = FIRST;
    while (!this.#stop.signal.aborted) {
      try {
        for await (const event of events(this.#path, this.#last, this.#stop.signal)) {
          if (this.#stop.signal.aborted) return;
          if ("ahead" in event) {
            this.#hooks.opened(event.ahead);
            pause = FIRST;
            continue;
          }
          this.#hooks.event(JSON.parse(event.data));
          this.#last = event.id;
        }
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        if (error instanceof Unauthorized) {
          this.#hooks.refused();
          return;
        }
      }
      if (this.#stop.signal.aborted) return;
      this.#hooks.lost();
      await this.#sleep(pause * (0.75 + Math.random() / 2));
      pause = Math.min(pause * 2, LAST);
    }
  }

  #sleep(time) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, time);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
