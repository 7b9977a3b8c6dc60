// The messages of protomux-wakeup, and whole conversations of two peers.

import assert from 'node:assert'

import { truncated } from './encodings.mjs'
import { RecordingStream, settle } from './frames.mjs'
import { c, fill, hex, output, pattern, plain, refuses, repeat, require, save, unhex } from './originals.mjs'

const Protomux = require('protomux')
const Wakeup = require('protomux-wakeup')
const schema = require('protomux-wakeup/spec/hyperschema')

const MAX = Number.MAX_SAFE_INTEGER
const LENGTHS = [0, 1, 252, 253, 65535, 65536, 2 ** 32 - 1, 2 ** 32, MAX]
const writer = (byte, length) => ({ key: fill(byte), length })

const VALUES = {
  handshake: [{ version: 0, capability: fill(5), active: true },
    { version: 0, capability: pattern(32), active: false }, { version: 253, capability: fill(0), active: true }],
  lookup: [{ hash: null }, { hash: fill(0) }, { hash: pattern(32) }],
  announce: [[], ...LENGTHS.map((length) => [writer(1, length)]), [writer(1, 1), writer(2, 70000), writer(3, 0)],
    repeat(writer(4, 300), 253)],
  info: [{ active: true }, { active: false }]
}

const ODD_BYTES = {
  handshake: [`00${hex(fill(5))}02`, `00${hex(fill(5))}03`, `00${hex(fill(5))}ff`, `00${hex(fill(5))}fd0100`,
    `01${hex(fill(5))}01`, `fd0000${hex(fill(5))}00ee`],
  lookup: ['02', '03', `03${hex(fill(6))}`, `fd0100${hex(fill(6))}`, '00ff', `01${hex(fill(6))}aa`, ''],
  announce: [`fd0100${hex(fill(1))}05`, `01${hex(fill(1))}fd0500`, `01${hex(fill(1))}05aa`,
    `01${hex(fill(1))}ff0000000000002000`, `01${hex(fill(1))}ffffffffffffffffff`, `02${hex(fill(1))}05`, 'fe00001000',
    'fe01001000', 'feffffffff'],
  info: ['02', '03', 'fd0100', 'fc', '01ff', 'fe00', 'ff0000000000002000']
}

const REFUSED_VALUES = {
  handshake: [{ version: 0, capability: fill(5, 31), active: true },
    { version: -1, capability: fill(5), active: true }],
  lookup: [{ hash: fill(1, 31) }, { hash: fill(1, 33) }],
  announce: [[{ key: fill(1, 31), length: 0 }], [writer(1, -1)], [writer(1, MAX + 1)]]
}

function decode (message, bytes) {
  const state = c.state(0, bytes.byteLength, bytes)
  const value = schema.getEncoding(`@wakeup/${message}`).decode(state)
  return { value: plain(value), consumed: state.start }
}

function messages () {
  const sections = { encode: [], decode: [], refused_values: [], refused_bytes: [] }
  for (const [message, values] of Object.entries(VALUES)) {
    for (const value of values) {
      const bytes = schema.encode(`@wakeup/${message}`, value)
      assert.equal(decode(message, bytes).consumed, bytes.byteLength)
      const short = value.toJSON ? { repeat: [plain(value[0]), value.length] } : plain(value)
      const entry = { message, value: short, bytes: output(bytes) }
      sections.encode.push({ ...entry, ...truncated(bytes, (part) => decode(message, part)) })
    }
    for (const bytes of ODD_BYTES[message].map(unhex)) {
      const entry = { message, bytes: hex(bytes) }
      if (refuses(() => decode(message, bytes))) sections.refused_bytes.push(entry)
      else sections.decode.push({ ...entry, ...decode(message, bytes) })
    }
    for (const value of REFUSED_VALUES[message] ?? []) {
      assert(refuses(() => schema.encode(`@wakeup/${message}`, value)))
      sections.refused_values.push({ message, value: plain(value) })
    }
  }
  return sections
}

// One peer of a conversation: what it is told to do, what it sends, whom it calls.
class Peer {
  constructor (role, events) {
    this.role = role
    this.note = (name, ...more) => events.push([role, name, ...more])
    this.stream = new RecordingStream(role === 'initiator', pattern(64))
    this.session = null
    this.whenWoken = null
    this.swarm = new Wakeup((id) => {
      this.note('wakeup', hex(id))
      if (this.whenWoken) this.open(this.whenWoken)
    })
    Protomux.from(this.stream)
  }

  open ({ capability, active = true, discovery_key: discoveryKey }) {
    const note = this.note
    this.session = this.swarm.session(capability, {
      active,
      discoveryKey,
      onpeeradd: (peer) => note('peer_add'),
      onpeerremove: (peer) => note('peer_remove'),
      onpeeractive: (peer) => note('peer_active'),
      onpeerinactive: (peer) => note('peer_inactive'),
      onannounce: (writers) => note('announce', plain(writers)),
      onlookup: (lookup) => note('lookup', plain(lookup.hash)),
      ondestroy: () => note('destroy')
    })
  }

  do (call) {
    if (call.do === 'session') this.open(call)
    else if (call.do === 'when_woken') this.whenWoken = call
    else if (call.do === 'add_stream') this.swarm.addStream(this.stream)
    else if (call.do === 'lookup') this.session.broadcastLookup({ hash: call.hash })
    else if (call.do === 'announce') this.session.announceByStream(this.stream, call.writers)
    else if (call.do === 'active') this.session.active()
    else if (call.do === 'inactive') this.session.inactive()
    else if (call.do === 'destroy') this.swarm.destroy()
    else throw new Error(`unknown call ${call.do}`)
  }
}

const I = (what, more) => ({ by: 'initiator', do: what, ...more })
const R = (what, more) => ({ by: 'responder', do: what, ...more })
const capability = fill(1)
const STREAMS = [I('add_stream'), R('add_stream')]

// Calls of one list are made at once; the next list waits until nobody has anything to say.
const CONVERSATIONS = {
  'both have a session': [[I('session', { capability })], [R('session', { capability })], STREAMS,
    [I('lookup', { hash: null })], [R('announce', { writers: [writer(7, 3), writer(8, 70000)] })],
    [R('lookup', { hash: fill(9) })], [I('announce', { writers: [] })], [R('inactive')],
    [R('active')], [I('inactive')], [R('destroy')], [I('destroy')]],
  'both open at once': [STREAMS, [I('session', { capability }), R('session', { capability })],
    [R('lookup', { hash: null })]],
  'the responder knows nothing': [STREAMS, [I('session', { capability })], [R('session', { capability })],
    [I('lookup', { hash: null })]],
  'the responder opens when woken': [STREAMS, [R('when_woken', { capability, active: false })],
    [I('session', { capability })], [I('lookup', { hash: null })],
    [R('announce', { writers: [writer(7, 1)] })], [R('active')], [I('destroy')]],
  'the responder is inactive': [[R('session', { capability, active: false })], STREAMS,
    [I('session', { capability })], [I('inactive')], [R('active')], [R('destroy')]],
  'the wrong capability': [[R('session', { capability, discovery_key: fill(6) })], STREAMS,
    [I('session', { capability: fill(2), discovery_key: fill(6) })]]
}

async function conversation (name, steps) {
  const events = []
  const peers = { initiator: new Peer('initiator', events), responder: new Peer('responder', events) }
  const found = []
  for (const calls of steps) {
    const frames = []
    for (const call of calls) peers[call.by].do(call)
    for (let quiet = 0; quiet < 3; quiet++) {
      for (const [from, to] of [['initiator', 'responder'], ['responder', 'initiator']]) {
        for (const frame of peers[from].stream.take()) {
          quiet = 0
          frames.push([from, hex(frame)])
          peers[to].stream.emit('data', frame)
        }
      }
      await settle()
    }
    found.push({ calls: plain(calls), frames, events: events.splice(0) })
  }
  for (const peer of Object.values(peers)) peer.swarm.destroy()
  return { name, handshake_hash: hex(peers.initiator.stream.handshakeHash), steps: found }
}

export async function wakeup () {
  const conversations = []
  for (const [name, steps] of Object.entries(CONVERSATIONS)) conversations.push(await conversation(name, steps))
  save('wakeup', ['compact-encoding', 'protomux', 'protomux-wakeup'], { ...messages(), conversations })
}
