// Muxes: opens, rejects, closes, aliases, batches. Names and steps are those of `harness/mux.py`.

import { c, fill, require } from '../../tests/golden/originals.mjs'
import { talk } from './talk.mjs'

const Protomux = require('protomux')

const [CREATE, OPEN, SEND, CLOSE, RELEASE, PAIR, CORK] = [3, 4, 5, 6, 7, 8, 9]
const [STRING, UINT, ARRAY, SKIPPED, RAW, JSON] = [0, 1, 2, 3, 4, 5]
const KEYS = [['alpha', null], ['alpha', Buffer.from('1')], ['beta', fill(0xbb)], ['sync', null], ['async', null],
  ['raise', null], ['old', null], ['new', null]]
const [ALPHA, ALPHA_1, BETA, SYNC, ASYNC,, OLD, NEW] = KEYS.keys()
const [AT_ONCE, MANY] = [1, 2]

class Side {
  constructor (stream) {
    this.mux = new Protomux(stream)
    this.channels = []
    this.waiting = []
    this.pair(SYNC, 0)
    this.pair(ASYNC, 1)
  }

  create (key, flags = 0) {
    const [protocol, id] = KEYS[key]
    const ignore = () => {}
    const channel = this.mux.createChannel({
      protocol,
      id,
      aliases: protocol === 'new' ? ['old'] : [],
      unique: !(flags & MANY),
      handshake: protocol === 'beta' ? c.uint : null,
      messages: [c.string, c.uint, c.array(c.uint), null, c.raw, c.json].map((encoding) => encoding &&
        { encoding, onmessage: ignore })
    })
    if (channel) {
      this.channels.push(channel)
      if (flags & AT_ONCE) channel.open(300)
    }
    return [CREATE, key, flags]
  }

  open (index) {
    this.channels[index].open(300)
    return [OPEN, index]
  }

  send (index, type, text) {
    const bytes = Buffer.from(text)
    const value = { [STRING]: text, [UINT]: bytes.length, [ARRAY]: [...bytes], [RAW]: bytes, [JSON]: [bytes.length] }
    this.channels[index].messages[type].send(value[type])
    return [SEND, index, type, bytes]
  }

  close (index) {
    this.channels[index].close()
    return [CLOSE, index]
  }

  cork (isOn) {
    if (isOn) this.mux.cork()
    else this.mux.uncork()
    return [CORK, isOn ? 1 : 0]
  }

  pair (key, kind) {
    const [protocol, id] = KEYS[key]
    const now = () => { if (kind !== 3) this.create(key, kind === 4 ? 0 : AT_ONCE | MANY) }
    const later = async () => {
      await new Promise((resolve) => this.waiting.push(resolve))
      now()
    }
    this.mux.pair({ protocol, id }, kind === 1 ? later : now)
    return [PAIR, key, kind]
  }

  release () {
    this.waiting.shift()?.()
    return [RELEASE, 0, 0]
  }
}

const both = (...call) => [[0, ...call], [1, ...call]]
const say = (side, index = 0) => [[STRING, 'hi'], [UINT, 'sixty'], [ARRAY, '\x01\x02'], [RAW, ''], [JSON, 'x']]
  .map(([type, text]) => [side, 'send', index, type, text])

const TALKS = {
  'both open': [both('create', ALPHA, AT_ONCE), say(0), say(1), [[0, 'close', 0]]],
  'with id and handshake': [both('create', BETA, AT_ONCE), say(0), [[1, 'close', 0]]],
  rejected: [[[0, 'create', ALPHA_1, AT_ONCE], ...say(0)], [[0, 'create', ALPHA_1, AT_ONCE]]],
  'paired by a callback': [[[0, 'create', SYNC, AT_ONCE], ...say(0)], say(1), [[1, 'close', 0]]],
  'paired by a callback that takes its time': [[[0, 'create', ASYNC, AT_ONCE], ...say(0)], [[1, 'release']], say(1)],
  'rejected by a callback': [[[1, 'pair', ALPHA, 3]], [[0, 'create', ALPHA, AT_ONCE]]],
  'created by a callback and opened later': [[[1, 'pair', ALPHA, 4]], [[0, 'create', ALPHA, AT_ONCE], ...say(0)],
    [[1, 'open', 0]], say(1)],
  'closed before the answer': [[[0, 'create', ASYNC, AT_ONCE], [0, 'close', 0]], [[1, 'release']],
    both('create', ALPHA, AT_ONCE)],
  'closed from both sides': [both('create', ALPHA, AT_ONCE), both('close', 0), both('create', ALPHA, AT_ONCE)],
  'an alias': [[[0, 'create', OLD, AT_ONCE], ...say(0), [1, 'create', NEW, AT_ONCE]], say(1), [[0, 'close', 0]]],
  'an alias that a callback answers': [[[1, 'pair', OLD, 0]], [[0, 'create', NEW, AT_ONCE]],
    [[1, 'create', NEW, AT_ONCE], [0, 'create', OLD, AT_ONCE], ...say(0, 1)]],
  'two of one name': [both('create', ALPHA, AT_ONCE), both('create', ALPHA, AT_ONCE | MANY), say(0, 1), say(1)],
  'a batch': [[[0, 'cork', true], [0, 'create', ALPHA, AT_ONCE], [0, 'create', BETA, AT_ONCE], ...say(0), ...say(0, 1),
    ...say(0), [0, 'cork', false]], [...both('create', ALPHA, AT_ONCE), ...both('create', BETA, AT_ONCE)],
  [[1, 'cork', true], ...say(1), [1, 'close', 0], ...say(1, 1), [1, 'cork', false]]]
}

export async function mux () {
  const frames = []
  for (const [name, calls] of Object.entries(TALKS)) {
    frames.push(...await talk('mux', name, calls, (stream) => new Side(stream)))
  }
  return frames
}
