// Times in words, and the axis that they are drawn along. Knows no backend.

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const ROOM = 60; // pixels of a name
const STEPS = [
  SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 15 * SECOND, 20 * SECOND, 30 * SECOND,
  MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 20 * MINUTE,
  30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 60 * DAY,
  120 * DAY, 365 * DAY,
];

const named = (options) => new Intl.DateTimeFormat(undefined, { hourCycle: "h23", ...options });
const clock = named({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const short = named({ hour: "2-digit", minute: "2-digit" });
const date = named({ month: "short", day: "numeric" });
const full = named({
  year: "numeric", month: "short", day: "numeric",
  hour: "2-digit", minute: "2-digit", second: "2-digit",
});

export const inFull = (time) => (Number.isNaN(time) ? "" : full.format(time));
export const timeOfDay = (time) => clock.format(time);

/** "340 ms", "4.2 s", "1 min 5 s", "3 h 2 min", "5 d 3 h". */
export function lasting(span) {
  const time = Math.max(0, span);
  if (time < SECOND) return `${Math.round(time)} ms`;
  if (time < 10 * SECOND) return `${(Math.floor(time / 100) / 10).toFixed(1)} s`;
  if (time < MINUTE) return `${Math.floor(time / SECOND)} s`;
  if (time < HOUR) return two(time, MINUTE, "min", SECOND, "s");
  if (time < DAY) return two(time, HOUR, "h", MINUTE, "min");
  return two(time, DAY, "d", HOUR, "h");
}

function two(time, large, name, small, other) {
  const rest = Math.floor((time % large) / small);
  return `${Math.floor(time / large)} ${name}${rest ? ` ${rest} ${other}` : ""}`;
}

/** What part of time is drawn. */
export class Axis {
  constructor(from, to) {
    this.from = from;
    this.to = Math.max(to, from + SECOND);
  }

  /** The place of `time` in percent, 0 to 100. */
  place(time) {
    return Math.min(100, Math.max(0, ((time - this.from) / (this.to - this.from)) * 100));
  }

  /** Round times within, with their names, for which there is room in `width` pixels. */
  ticks(width) {
    const count = Math.max(2, Math.floor(width / (1.4 * ROOM)));
    const step = STEPS.find((each) => (this.to - this.from) / each <= count) ?? STEPS.at(-1);
    // Round where the clock on the wall is.
    const shift = new Date(this.to).getTimezoneOffset() * MINUTE;
    const first = Math.ceil((this.from - shift) / step) * step + shift;
    const name = step < MINUTE ? clock : step < DAY ? short : date;
    const ticks = [];
    for (let time = first; time <= this.to; time += step) {
      const place = this.place(time);
      const fits = (1 - place / 100) * width > ROOM;
      ticks.push({ place, text: fits ? name.format(time) : "" });
    }
    return ticks;
  }
}
