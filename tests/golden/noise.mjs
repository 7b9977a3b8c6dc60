// Noise handshakes with fixed keys, what of them is refused, and the Diffie-Hellman under them.

import assert from 'node:assert'

import { crypto, fill, hex, pattern, refuses, require, save, unhex } from './originals.mjs'

const Handshake = require('@hyperswarm/secret-stream/lib/handshake.js')
const curve = require('noise-curve-ed')
const sodium = require('sodium-universal')

export const PATTERNS = ['XX', 'IK', 'XK']
const KEYS = [
  { initiator: { static: fill(1), ephemeral: fill(2) }, responder: { static: fill(3), ephemeral: fill(4) } },
  { initiator: { static: pattern(32), ephemeral: fill(0) }, responder: { static: fill(255), ephemeral: fill(128) } }
]

// Of one side only, so that the other can be played by somebody who sends none.
const PAYLOADS = [['hello', '', 'x'], ['', 'hello', '']].map((texts) => texts.map((text) => Buffer.from(text)))

// The sides of a handshake that has not begun, their random choices made.
function sides (name, keys) {
  const remote = name === 'XX' ? null : crypto.keyPair(keys.responder.static).publicKey
  const make = (isInitiator, own) => {
    const handshake = new Handshake(isInitiator, crypto.keyPair(own.static), isInitiator ? remote : null, name)
    handshake.noise.e = curve.generateKeyPair(own.ephemeral)
    return handshake
  }
  return [make(true, keys.initiator), make(false, keys.responder)]
}

const seeds = (own) => ({ static_seed: hex(own.static), ephemeral_seed: hex(own.ephemeral) })

function transcript (name, keys, payloads = []) {
  const [initiator, responder] = sides(name, keys).map((side) => side.noise)
  const messages = []
  for (let turn = 0; !initiator.complete || !responder.complete; turn++) {
    const [from, to] = turn % 2 ? [responder, initiator] : [initiator, responder]
    const message = from.send(payloads[turn])
    // A copy, because the original wipes the ephemeral key in what it received.
    assert.deepEqual(to.recv(Buffer.from(message)), payloads[turn] ?? fill(0, 0))
    messages.push(message)
  }
  assert.deepEqual([initiator.hash, initiator.tx, initiator.rx], [responder.hash, responder.rx, responder.tx])
  const keyPairs = [keys.initiator, keys.responder].map((own) => crypto.keyPair(own.static))
  assert.deepEqual([responder.rs, initiator.rs], keyPairs.map((pair) => pair.publicKey))
  return {
    pattern: name,
    initiator: { ...seeds(keys.initiator), public_key: hex(keyPairs[0].publicKey) },
    responder: { ...seeds(keys.responder), public_key: hex(keyPairs[1].publicKey) },
    ...(payloads.length ? { payloads: payloads.slice(0, messages.length).map(hex) } : {}),
    messages: messages.map(hex),
    handshake_hash: hex(initiator.hash),
    initiator_tx: hex(initiator.tx),
    responder_tx: hex(responder.tx)
  }
}

const flip = (bytes, index) => Buffer.from(bytes).fill(bytes.at(index) ^ 1, index, index + 1 || undefined)

const CHANGES = {
  'nothing changed': (message) => message,
  empty: () => fill(0, 0),
  'first bit': (message) => flip(message, 0),
  'last byte': (message) => flip(message, message.length - 1),
  'one byte short': (message) => message.subarray(0, -1),
  'one byte more': (message) => Buffer.concat([message, fill(0, 1)]),
  'key of small order': (message) => Buffer.concat([fill(0), message.subarray(32)]),
  'no room for a key': (message) => message.subarray(0, 31)
}

// What the other side makes of each message of a transcript once it was changed on the way.
function changed (name, keys) {
  const { messages } = transcript(name, keys)
  return messages.flatMap((_, index) => Object.entries(CHANGES).map(([change, apply]) => {
    const [initiator, responder] = sides(name, keys)
    initiator.send()
    for (let turn = 0; turn < index; turn++) (turn % 2 ? initiator : responder).recv(unhex(messages[turn]))
    const bytes = apply(unhex(messages[index]))
    const found = { pattern: name, message: index, change, bytes: hex(bytes) }
    const refused = (index % 2 ? initiator : responder).recv(bytes) === null
    assert(change !== 'nothing changed' || !refused)
    return { ...found, refused }
  }))
}

const ORDER_8 = unhex('26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05')

function offSubgroup (seed) {
  const sum = fill(0)
  sodium.crypto_core_ed25519_add(sum, crypto.keyPair(seed).publicKey, ORDER_8)
  return sum
}

// libsodium adds what is on the curve, whatever its order.
const isOnCurve = (key) => !refuses(() => sodium.crypto_core_ed25519_add(fill(0), key, ORDER_8))

function negated (bytes) {
  return Buffer.concat([bytes.subarray(0, 31), fill(bytes[31] ^ 0x80, 1)])
}

const point = (first, rest, last) => Buffer.concat([fill(first, 1), fill(rest, 30), fill(last, 1)])
const REFUSED = {
  'small order, y = 0': [point(0, 0, 0), point(0, 0, 0x80)],
  'small order, y = 1': [point(1, 0, 0), point(1, 0, 0x80)],
  'small order, y = -1': [point(0xec, 0xff, 0x7f), point(0xec, 0xff, 0xff)],
  'order 8': [ORDER_8, negated(ORDER_8), unhex('c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a'),
    unhex('c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa')],
  'not canonical': [0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf2, 0xff]
    .flatMap((first) => [point(first, 0xff, 0x7f), point(first, 0xff, 0xff)]),
  'off the curve': [point(2, 0, 0), point(7, 0, 0)],
  'off the subgroup': [offSubgroup(fill(1)), offSubgroup(fill(3)), negated(offSubgroup(fill(3))), point(3, 0, 0),
    fill(0xaa)],
  'wrong size': [fill(0, 0), crypto.keyPair(fill(1)).publicKey.subarray(1)]
}

export function noise () {
  const publicKey = (seed) => crypto.keyPair(seed).publicKey
  const pairs = [[1, 3], [3, 1], [0, 255], [5, 5]].map(([own, other]) => [fill(own), publicKey(fill(other))])
  pairs.push([pattern(32), publicKey(fill(1))], [fill(1), negated(publicKey(fill(3)))])
  save('noise', ['@hyperswarm/secret-stream', 'noise-curve-ed', 'noise-handshake', 'sodium-universal'], {
    transcripts: PATTERNS.flatMap((name) => KEYS.map((keys) => transcript(name, keys))),
    with_payloads: PATTERNS.flatMap((name) => PAYLOADS.map((payloads) => transcript(name, KEYS[0], payloads))),
    changed: PATTERNS.flatMap((name) => changed(name, KEYS[0])),
    dh: pairs.map(([seed, key]) => {
      const shared = curve.dh(key, crypto.keyPair(seed))
      return { seed: hex(seed), public_key: hex(key), shared: hex(shared) }
    }),
    refused_public_keys: Object.entries(REFUSED).flatMap(([reason, keys]) => keys.map((key) => {
      assert(refuses(() => curve.dh(key, crypto.keyPair(fill(1)))), reason)
      if (reason.startsWith('off')) assert.equal(isOnCurve(key), reason === 'off the subgroup')
      return { reason, public_key: hex(key) }
    }))
  })
}
