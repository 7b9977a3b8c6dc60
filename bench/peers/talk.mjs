// What a program has of the runner: its options, barriers, the clock. See talk.py.

import { writeSync } from 'node:fs'
import { createInterface } from 'node:readline'

const STALL = 5000 // ms in which nothing arrives, after which something was lost

export const now = () => Number(process.hrtime.bigint()) // good to 1 µs for a hundred days

export function say (line) {
  writeSync(1, JSON.stringify(line) + '\n')
}

// Tell what is wrong and end the process; also from inside a hook.
export function fail (problem) {
  say({ error: problem })
  process.exit(1)
}

export function cpu () {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

export class Talk {
  #began = 0
  #cpuBefore = 0
  #waiting = null

  constructor (options) {
    this.size = options.size
    this.port = options.port
    this.isClient = options.port !== null
    this.isCorked = options.corked
    this.spans = []
    this.cpu = 0
    const lines = createInterface({ input: process.stdin })
    lines.on('line', (line) => this.#waiting(JSON.parse(line)))
    lines.on('close', () => process.exit(0))
  }

  // Wait until both sides are here.
  async sync (name) {
    const passed = new Promise((resolve) => { this.#waiting = resolve })
    say({ sync: name })
    const line = await passed
    if (line.sync !== name) fail(`expected the barrier ${name}, got ${JSON.stringify(line)}`)
  }

  begin () {
    this.#cpuBefore = cpu()
    this.#began = now()
  }

  // All of the measured part is over. `began`: our begin counts. `ended`: when the last arrived.
  end ({ began = false, ended = null } = {}) {
    this.cpu += cpu() - this.#cpuBefore
    this.spans.push([began ? this.#began : null, ended])
  }

  finish (count, check, figures) {
    say({ result: { count, check, figures, spans: this.spans, cpu: this.cpu } })
  }
}

// What arrives here: whoever counts it calls finish() at the last.
export class Arrivals {
  count = 0
  total = 0
  expected = 0
  ended = 0
  #isDone = true
  #resolve = null

  expect (count) {
    this.count = this.total = 0
    this.expected = count
    this.#isDone = false
  }

  finish () {
    this.ended = now()
    this.#isDone = true
    this.#resolve?.()
  }

  async wait () {
    if (this.#isDone) return
    let before = this.count
    const stalled = setInterval(() => {
      if (this.count === before) {
        fail(`expected ${this.expected} to arrive, got ${before} and no more`)
      }
      before = this.count
    }, STALL)
    await new Promise((resolve) => { this.#resolve = resolve })
    this.#resolve = null
    clearInterval(stalled)
  }
}
