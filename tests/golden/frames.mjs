// What a Protomux writes, and whom it calls, when it is called and receives frames.

import { EventEmitter } from 'node:events'

import { BOOL, RAW, STRING, UINT, codec } from './encodings.mjs'
import { c, crypto, fill, hex, output, pattern, plain, repeat, require, save, unhex } from './originals.mjs'

const Protomux = require('protomux')

export const settle = () => new Promise((resolve) => setTimeout(resolve, 1))

// The stream under a mux: keeps what is written, hands in what a script receives.
export class RecordingStream extends EventEmitter {
  constructor (isInitiator, handshakeHash) {
    super()
    Object.assign(this, { isInitiator, handshakeHash, frames: [], userData: null, connected: true })
    Object.assign(this, { destroyed: false, noiseStream: this })
  }

  write (frame) {
    this.frames.push(Buffer.from(frame))
    return true
  }

  take () {
    return this.frames.splice(0)
  }

  destroy () {
    if (this.destroyed) return
    this.destroyed = true
    setImmediate(() => this.emit('close'))
  }

  pause () {}
  resume () {}
  end () {}
}

// Runs a list of calls against a real mux, and notes after each what it wrote and whom it called.
class Script {
  constructor (name) {
    this.name = name
    this.stream = new RecordingStream(true, fill(0, 64))
    this.mux = new Protomux(this.stream)
    this.channels = {}
    this.events = []
    this.steps = []
  }

  async step (call) {
    this[call.do](call)
    await settle()
    const step = plain(call)
    const frames = this.stream.take()
    // The fill of a hundred channels is of no interest but as a whole.
    if (frames.length > 20) step.frames_hash = hex(crypto.hash(frames))
    else if (frames.length) step.frames = frames.map(output)
    if (this.events.length) step.events = this.events.splice(0)
    if (this.stream.destroyed) step.destroyed = true
    this.steps.push(step)
  }

  create ({ channel, protocol, id = null, aliases, unique, handshake, messages = [], echo = false }) {
    const note = (...event) => this.events.push(event)
    this.channels[channel] = this.mux.createChannel({
      protocol,
      id,
      aliases,
      unique,
      handshake: handshake ? codec(handshake) : null,
      messages: messages.map((encoding, type) => encoding && {
        encoding: codec(encoding),
        onmessage: (value, self) => {
          note('message', channel, type, plain(value))
          if (echo) self.messages[type].send(value)
        }
      }),
      onopen: (value) => note('open', channel, plain(value)),
      onclose: (isRemote) => note('close', channel, isRemote),
      ondestroy: () => note('destroy', channel)
    })
    if (this.channels[channel] === null) note('refused', channel)
  }

  open ({ channel, handshake }) {
    this.channels[channel].open(handshake)
  }

  send ({ channel, type = 0, value }) {
    this.channels[channel].messages[type].send(value)
  }

  close ({ channel }) {
    this.channels[channel].close()
  }

  cork () {
    this.mux.cork()
  }

  uncork () {
    this.mux.uncork()
  }

  // The callback notes that it was asked, then does `answer`, or waits for `release` where `hold`.
  pair ({ protocol, id = null, hold = false, answer = [] }) {
    this.mux.pair({ protocol, id }, (asked) => {
      this.events.push(['pair', protocol, plain(asked)])
      for (const call of answer) this[call.do](call)
      return hold ? new Promise((resolve) => { this.release = resolve }) : undefined
    })
  }

  // Opens `count` channels, the id of each being its number as u16 LE.
  fill ({ protocol, count }) {
    for (let i = 0; i < count; i++) {
      this.mux.createChannel({ protocol, id: Buffer.from([i & 255, i >> 8]) }).open()
    }
  }

  // Receives `count` opens, numbered from 1.
  offer ({ protocol, count }) {
    for (let id = 1; id <= count; id++) this.receive({ frame: opening(id, protocol) })
  }

  // Does several calls before anything else can happen.
  together ({ calls }) {
    for (const call of calls) this[call.do](call)
  }

  receive ({ frame }) {
    this.stream.emit('data', frame)
  }
}

const bytes = (part) => typeof part === 'number' ? c.encode(c.uint, part) : part
const join = (...parts) => Buffer.concat(parts.map(bytes))
const text = (value) => c.encode(c.string, value)
const item = (...parts) => c.encode(c.buffer, join(...parts))
const opening = (id, protocol, binary = null, handshake = fill(0, 0)) =>
  join(0, 1, id, text(protocol), c.encode(c.optionalBuffer, binary), handshake)

const A = { do: 'create', channel: 'a', protocol: 'alpha', messages: [STRING, UINT, RAW] }
const B = { do: 'create', channel: 'b', protocol: 'beta', id: fill(0xbb), handshake: UINT, messages: [RAW] }
const OPEN_A = { do: 'open', channel: 'a' }
const OPEN_B = { do: 'open', channel: 'b', handshake: 300 }
const TOGETHER = { do: 'together', calls: [A, OPEN_A] }
const CORK = { do: 'cork' }
const UNCORK = { do: 'uncork' }
const HOLD_ALPHA = { do: 'pair', protocol: 'alpha', hold: true }
const say = (channel, value, type = 0) => ({ do: 'send', channel, type, value })
const close = (channel) => ({ do: 'close', channel })
const receive = (...parts) => ({ do: 'receive', frame: join(...parts) })

const SCRIPTS = {
  'open, messages, close': [A, OPEN_A, say('a', 'early'), receive(opening(1, 'alpha')), say('a', 'hi'),
    say('a', 70000, 1), say('a', pattern(1000), 2), say('a', fill(0, 0), 2), receive(1, 0, text('yo')),
    receive(1, 1, 252), receive(1, 2), receive(1, 3, text('no such type')), close('a'), say('a', 'late'),
    receive(1, 0, text('in flight')), receive(0, 3, 1)],
  'open with id and handshake': [B, OPEN_B, receive(opening(1, 'beta', fill(0xbb), c.encode(c.uint, 7))),
    receive(1, 0, fill(1, 5)), receive(0, 3, 1), receive(1, 0, fill(1, 5))],
  'no id and an empty id are one': [A, OPEN_A, receive(opening(1, 'alpha', fill(0, 0))), receive(1, 1, 5)],
  'skipped message types': [{ ...A, messages: [null, UINT, null, BOOL] }, OPEN_A, say('a', 1, 1), say('a', true, 3),
    receive(opening(1, 'alpha')), receive(1, 0, 5), receive(1, 3, 1)],
  'numbers above 252': [{ do: 'fill', protocol: 'many', count: 252 }, A, OPEN_A, say('a', 'x'), B, OPEN_B,
    say('b', fill(2, 2)), CORK, say('a', 'x'), say('b', fill(2, 2)), UNCORK, close('a'), close('b')],
  'message types above 252': [{ ...A, messages: repeat(BOOL, 257) }, OPEN_A, say('a', true, 252),
    say('a', true, 253), say('a', false, 256), CORK, say('a', true, 252), say('a', true, 253), UNCORK],
  'batch of one message': [A, OPEN_A, CORK, say('a', 'x'), UNCORK, CORK, UNCORK],
  'batch of one open': [A, CORK, OPEN_A, UNCORK, CORK, close('a'), UNCORK],
  'batch of several channels': [A, B, CORK, OPEN_A, say('a', 'x'), OPEN_B, say('b', fill(2, 3)), say('b', fill(0, 0)),
    say('a', 5, 1), say('a', pattern(300), 2), CORK, close('b'), UNCORK, say('a', ''), UNCORK, say('a', 'after')],
  'batch cut at 8 MiB': [A, OPEN_A, CORK, ...Array(5).fill(say('a', pattern(3 << 20), 2)), UNCORK],
  'rejected': [A, OPEN_A, receive(0, 2, 1), say('a', 'gone'), A, OPEN_A],
  'rejects an open': [receive(opening(1, 'gamma', fill(3))), receive(opening(1, 'gamma')),
    receive(opening(2, 'delta'))],
  'rejects two opens of a batch': [
    receive(0, 0, 0, item(opening(1, 'x').subarray(1)), item(opening(2, 'y').subarray(1)))],
  'rejects numbers above 252': [{ do: 'offer', protocol: 'none', count: 252 }, receive(opening(253, 'none')),
    receive(opening(254, 'none'))],
  'pair opens': [{ do: 'pair', protocol: 'beta', answer: [B, OPEN_B] },
    receive(opening(1, 'beta', fill(0xbb), join(1))), receive(1, 0, fill(1, 2))],
  'pair opens, in a batch with messages': [{ do: 'pair', protocol: 'beta', answer: [B, OPEN_B] },
    receive(0, 0, 0, item(opening(1, 'beta', fill(0xbb), join(1)).subarray(1)), 0, 1, item(0, fill(1, 2)),
      item(0, fill(2, 2)))],
  'pair for one id before pair for all': [{ do: 'pair', protocol: 'beta' },
    { do: 'pair', protocol: 'beta', id: fill(1) }, receive(opening(1, 'beta', fill(1))), receive(opening(1, 'beta', fill(2))),
    receive(opening(1, 'other'))],
  'held until opened': [HOLD_ALPHA, receive(opening(1, 'alpha')), receive(1, 0, text('one')), receive(1, 1, 2),
    TOGETHER, { do: 'release' }, receive(1, 1, 3), say('a', 'x')],
  'held until rejected': [HOLD_ALPHA, receive(opening(1, 'alpha')), receive(1, 0, text('one')), { do: 'release' },
    receive(1, 0, text('late')), receive(opening(1, 'alpha'))],
  'closed while held': [HOLD_ALPHA, receive(opening(1, 'alpha')), receive(1, 0, text('one')), receive(0, 3, 1),
    { do: 'release' }, receive(opening(2, 'alpha'))],
  'opened after closed while held': [HOLD_ALPHA, receive(opening(1, 'alpha')), receive(0, 3, 1), TOGETHER,
    { do: 'release' }],
  'aliases pair': [{ ...A, aliases: ['old'] }, OPEN_A, receive(opening(1, 'old')), receive(1, 1, 3)],
  'unique': [A, OPEN_A, { ...A, channel: 'c' }, { ...A, channel: 'd', unique: false }, { do: 'open', channel: 'd' }],
  'two of one name pair in order': [A, OPEN_A, { ...A, channel: 'd', unique: false }, { do: 'open', channel: 'd' },
    receive(opening(1, 'alpha')), receive(opening(2, 'alpha')), receive(2, 1, 2), receive(1, 1, 1)],
  'numbers are used again': [A, OPEN_A, B, OPEN_B, receive(opening(1, 'alpha')),
    receive(opening(2, 'beta', fill(0xbb), join(0))), close('a'), close('b'), A, OPEN_A, B, OPEN_B],
  'number waits for the peer after an early close': [A, OPEN_A, close('a'), A, OPEN_A, receive(opening(1, 'alpha')),
    { ...B, channel: 'b' }, OPEN_B],
  'batch received': [{ ...A, echo: true }, OPEN_A, receive(0, 0, 0, item(opening(1, 'alpha').subarray(1)), 0, 1,
    item(0, text('x')), item(1, 9), item(2)), receive(0, 0, 1, item(1, 5)), receive(0, 0, 1), receive(0, 0, 1, 0, 2)],
  'batch inside a batch': [A, OPEN_A, receive(opening(1, 'alpha')),
    receive(0, 0, 0, item(0, 1, item(1, 5), item(1, 6)), 0, 1, item(1, 7))],
  'ignored': [receive(), receive(5, 0), receive(0, 4), receive(0, 200, 1), receive(0, 3, 0), receive(0, 3, 9),
    receive(0, 3, 9, fill(1, 4)), A, OPEN_A, receive(opening(1, 'alpha'), fill(0xee, 4)),
    receive(1, 1, 5, fill(0xee, 3))],
  'longer integers than needed': [A, OPEN_A, receive(unhex('fd0000fd0100fd0100'), text('alpha'), 0),
    receive(unhex('fd0100fd0100fd0500'))],
  'destroyed: open skips a number': [receive(opening(2, 'alpha'))],
  'destroyed: open of a used number': [A, OPEN_A, receive(opening(1, 'alpha')), receive(opening(1, 'alpha'))],
  'destroyed: open of number 0': [receive(opening(0, 'alpha'))],
  'destroyed: open cut short': [receive(0, 1, 1, unhex('0561'))],
  'destroyed: handshake cut short': [B, OPEN_B, receive(opening(1, 'beta', fill(0xbb)))],
  'destroyed: message cut short': [A, OPEN_A, receive(opening(1, 'alpha')), receive(1, 0, unhex('0561'))],
  'destroyed: no type': [receive(1)],
  'destroyed: reject of nothing': [receive(0, 2, 1)],
  'destroyed: reject of an open channel': [A, OPEN_A, receive(opening(1, 'alpha')), receive(0, 2, 1)],
  'destroyed: batch without a channel': [receive(0, 0)],
  'destroyed: batch cut short in a length': [A, OPEN_A, receive(opening(1, 'alpha')),
    receive(0, 0, 1, item(1, 5), unhex('fd'))],
  'batch cut short in a message': [A, OPEN_A, receive(opening(1, 'alpha')),
    receive(0, 0, 1, item(1, 5), 9, 2, fill(7, 3))]
}

export async function frames () {
  const scripts = []
  for (const [name, calls] of Object.entries(SCRIPTS)) {
    const script = new Script(name)
    for (const call of calls) await script.step(call)
    scripts.push({ name, steps: script.steps })
  }
  save('frames', ['compact-encoding', 'protomux'], { scripts })
}

