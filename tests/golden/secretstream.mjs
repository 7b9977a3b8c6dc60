// The cipher of a secret stream, and whole conversations of two streams.

import assert from 'node:assert'
import { Duplex } from 'node:stream'

import { settle } from './frames.mjs'
import { PATTERNS } from './noise.mjs'
import { crypto, fill, hex, output, pattern, plain, refuses, require, save } from './originals.mjs'

const SecretStream = require('@hyperswarm/secret-stream')
const curve = require('noise-curve-ed')
const { Pull, Push } = require('sodium-secretstream')
const sodium = require('sodium-universal')

const TAGS = ['MESSAGE', 'PUSH', 'REKEY', 'FINAL']

function fixHeader (push, header) {
  push.header.set(header)
  sodium.crypto_secretstream_xchacha20poly1305_init_pull(push.state, header, push.key)
  return push
}

function pushing (key, header) {
  return fixHeader(new Push(key), header)
}

function pulling (key, header) {
  const pull = new Pull(key)
  pull.init(header)
  return pull
}

function series (key, header) {
  const push = pushing(key, header)
  const pull = pulling(key, header)
  const sizes = [0, 1, 16, 63, 64, 65, 127, 128, 129, 0, 300, 1000, 16384, 65535, 65536, 65537, 1 << 20]
  const messages = sizes.map((size) => {
    const ciphertext = push.next(pattern(size))
    assert(pull.next(ciphertext).equals(pattern(size)))
    return { plaintext: plain(pattern(size)), ciphertext: output(ciphertext) }
  })
  return { key: hex(key), header: hex(header), messages }
}

// Messages under every tag that libsodium knows: the originals send MESSAGE, but read them all.
function tagged (key, header) {
  const push = pushing(key, header)
  const pull = pulling(key, header)
  const messages = [...TAGS, 'MESSAGE', 'REKEY', 'MESSAGE'].map((tag, index) => {
    const [plaintext, ciphertext] = [fill(index, 20), fill(0, 37)]
    const value = sodium[`crypto_secretstream_xchacha20poly1305_TAG_${tag}`]
    sodium.crypto_secretstream_xchacha20poly1305_push(push.state, ciphertext, plaintext, null, value)
    assert(pull.next(ciphertext).equals(plaintext))
    return { tag, plaintext: hex(plaintext), ciphertext: hex(ciphertext) }
  })
  return { key: hex(key), header: hex(header), messages }
}

// Ciphertexts of one stream as they should not arrive: all but the last open.
function refused (key, header) {
  const push = pushing(key, header)
  const [a, b] = [push.next(Buffer.from('first')), push.next(Buffer.from('second'))]
  const flipped = (index) => Buffer.from(a.map((byte, i) => i === index ? byte ^ 1 : byte))
  const cases = {
    'tag flipped': [flipped(0)],
    'text flipped': [flipped(3)],
    'mac flipped': [flipped(a.length - 1)],
    'cut short': [a.subarray(0, -1)],
    'one byte more': [Buffer.concat([a, fill(0, 1)])],
    'first missing': [b],
    'first again': [a, a],
    'first after second': [a, b, a],
    'other header': [pushing(key, fill(0, 24)).next(fill(0, 5))],
    'other key': [pushing(fill(0), header).next(fill(0, 5))]
  }
  for (const [name, messages] of Object.entries(cases)) {
    const pull = pulling(key, header)
    for (const message of messages.slice(0, -1)) pull.next(message)
    assert(refuses(() => pull.next(messages.at(-1))), name)
  }
  const named = Object.entries(cases).map(([name, messages]) => ({ name, messages: messages.map(hex) }))
  return { key: hex(key), header: hex(header), cases: named }
}

// One end of a byte stream in memory; keeps what went into it.
class Wire extends Duplex {
  sent = []
  other = null

  _read () {}

  _write (data, _, done) {
    this.sent.push(Buffer.from(data))
    // Not at once: the originals expect bytes to come from outside their own writes.
    setImmediate(() => this.other.push(data))
    done()
  }

  _final (done) {
    setImmediate(() => this.other.push(null))
    done()
  }
}

const SIDES = {
  initiator: {
    static: fill(1),
    ephemeral: fill(2),
    header: fill(0x11, 24),
    says: ['', 'hello', pattern(300), 'last']
  },
  responder: {
    static: fill(3),
    ephemeral: fill(4),
    header: fill(0x22, 24),
    says: ['world', '', pattern(100)]
  }
}

async function conversation (name) {
  const wires = [new Wire(), new Wire()]
  const remotePublicKey = name === 'XX' ? null : crypto.keyPair(SIDES.responder.static).publicKey
  wires.forEach((wire, index) => { wire.other = wires[1 - index] })
  const ends = Object.values(SIDES).map((side, index) => {
    const options = { keyPair: crypto.keyPair(side.static), pattern: name }
    const stream = new SecretStream(index === 0, wires[index], index ? options : { ...options, remotePublicKey })
    stream._handshake.noise.e = curve.generateKeyPair(side.ephemeral)
    stream.once('handshake', () => fixHeader(stream._encrypt, side.header))
    stream.received = []
    stream.on('data', (data) => stream.received.push(Buffer.from(data)))
    return stream
  })
  await Promise.all(ends.map((stream) => stream.opened))
  await settle()
  for (let turn = 0; turn < 4; turn++) {
    for (const [index, side] of Object.values(SIDES).entries()) {
      if (turn < side.says.length) ends[index].write(Buffer.from(side.says[turn]))
    }
    await settle()
  }
  const found = { pattern: name, handshake_hash: hex(ends[0].handshakeHash) }
  for (const [index, [role, side]] of Object.entries(SIDES).entries()) {
    const says = side.says.map((message) => Buffer.from(message))
    assert.deepEqual(ends[1 - index].received, says)
    found[role] = {
      static_seed: hex(side.static),
      ephemeral_seed: hex(side.ephemeral),
      header: hex(side.header),
      says: says.map(hex),
      sends: hex(Buffer.concat(wires[index].sent))
    }
  }
  for (const stream of ends) stream.destroy()
  return found
}

export async function secretstream () {
  const conversations = []
  for (const name of PATTERNS) conversations.push(await conversation(name))
  save('secretstream', ['@hyperswarm/secret-stream', 'noise-handshake', 'sodium-secretstream', 'sodium-universal'], {
    series: [series(fill(1), fill(2, 24)), series(pattern(32), pattern(24))],
    tagged: [tagged(fill(3), fill(4, 24))],
    refused: [refused(fill(5), fill(6, 24))],
    conversations
  })
}
