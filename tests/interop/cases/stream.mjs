// The Node twins of test_stream.py. `t.opener` says here who acts: sends, closes, or misbehaves.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'

import b4a from 'b4a'
import SecretStream from '@hyperswarm/secret-stream'
import curve from 'noise-curve-ed'
import Noise from 'noise-handshake'

import { Inbox, range } from '../twin.mjs'

const NODE = SecretStream.keyPair(b4a.alloc(32, 1))
const PYTHON = SecretStream.keyPair(b4a.alloc(32, 2))
const STRANGER = SecretStream.keyPair(b4a.alloc(32, 3))

const KIBIBYTE = 1024
const MEBIBYTE = 1024 * KIBIBYTE
const MAX_FRAME = 2 ** 24 - 1 - 17

// What comes in by a stream; null is its end.
function collect (stream) {
  const inbox = new Inbox()
  stream.on('data', (data) => inbox.push(data))
  stream.on('end', () => inbox.push(null))
  return inbox
}

async function exchange (stream, inbox = collect(stream)) {
  stream.write('hello from node')
  assert.equal(b4a.toString(await inbox.next()), 'hello from python')
}

export async function handshake_patterns (t) {
  const { pattern } = t.options
  const stream = await t.stream({
    pattern,
    keyPair: NODE,
    remotePublicKey: t.initiator && pattern !== 'XX' ? PYTHON.publicKey : null
  })
  assert.equal(stream.isInitiator, t.initiator)
  assert.deepEqual(stream.publicKey, NODE.publicKey)
  assert.deepEqual(stream.remotePublicKey, PYTHON.publicKey)
  const hash = b4a.toString(stream.handshakeHash, 'hex')
  assert.equal(await t.sync('handshake hash', hash), hash)
  await exchange(stream)
}

export async function a_wrong_responder_key (t) {
  const stream = await t.dial({
    pattern: t.options.pattern,
    keyPair: NODE,
    remotePublicKey: t.initiator ? STRANGER.publicKey : null
  })
  assert.equal(await stream.opened, false)
  await t.gone(stream)
}

export async function a_pinned_key (t) {
  // Only the Python side holds XX to a key.
  for (const keyPair of [STRANGER, NODE]) {
    const stream = await t.dial({ keyPair })
    if (keyPair === NODE) await exchange(stream)
    else await t.gone(stream)
  }
}

export async function a_firewall (t) {
  // On the Python side; the original has its own in hyperdht.
  for (const keyPair of [STRANGER, NODE]) {
    const stream = await t.dial({ keyPair })
    if (keyPair === NODE) await exchange(stream)
    else {
      await t.gone(stream)
      t.tell('refused')
    }
  }
}

export async function keep_alive (t) {
  const { who } = t.options
  const stream = await t.stream()
  const inbox = collect(stream)
  if (who !== 'python') stream.setKeepAlive(40)
  if (who !== 'node') stream.setTimeout(1000) // reached but for the other side's keep-alive

  if (who === 'python') {
    const empty = await inbox.take(30)
    assert.ok(empty.every((data) => data.byteLength === 0))
    t.tell('enough')
  } else if (who === 'node') await t.hear('enough')
  else {
    // Neither side's hooks see a thing, so look at the bytes: five of each have passed.
    const { rawBytesRead: read, rawBytesWritten: written } = stream
    while (stream.rawBytesRead - read < 5 * 17 || stream.rawBytesWritten - written < 5 * 20) {
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    t.tell('enough')
  }
  stream.write('bye from node')
  let last
  do last = await inbox.next()
  while (who === 'python' && last.byteLength === 0)
  assert.equal(b4a.toString(last), 'bye from python')
}

export async function a_silent_peer_times_out (t) {
  const stream = await t.stream()
  if (t.opener) stream.setTimeout(50)
  stream.resume()
  const error = await t.gone(stream)
  if (t.opener) assert.equal(error.message, 'Stream timed out')
}

export async function half_close_with_much_data_pending (t) {
  t.allowHalfOpen = true
  const stream = await t.stream()
  const inbox = collect(stream)
  const chunks = (count) => range(count).map((n) => b4a.alloc(64 * KIBIBYTE, n))
  const received = async (count) => {
    for (const chunk of chunks(count)) assert.ok(b4a.equals(await inbox.next(), chunk))
  }

  if (t.opener) {
    for (const chunk of chunks(512)) stream.write(chunk) // 32 MiB
    stream.end()
    await received(256) // comes when all of ours is there
  } else {
    await received(512)
    for (const chunk of chunks(256)) stream.write(chunk)
    stream.end()
  }
  assert.equal(await inbox.next(), null)
  assert.equal(await t.gone(stream), null)
}

export async function empty_messages (t) {
  const stream = await t.stream()
  const inbox = collect(stream)
  for (const text of ['', 'a', '', '', 'b']) stream.write(b4a.from(text))
  assert.deepEqual((await inbox.take(5)).map(String), ['', 'a', '', '', 'b'])
}

export async function large_messages (t) {
  const stream = await t.stream()
  const inbox = collect(stream)
  for (const size of [8 * MEBIBYTE - 1, 8 * MEBIBYTE, 8 * MEBIBYTE + 1, MAX_FRAME]) {
    const large = b4a.alloc(size, size % 251)
    if (t.opener) stream.write(large)
    const received = await inbox.next()
    assert.ok(b4a.equals(received, large), String(size))
    if (!t.opener) stream.write(received)
  }
}

export async function many_messages_both_ways (t) {
  const count = 20_000
  const stream = await t.stream()
  const inbox = collect(stream)
  const [sent, received] = [createHash('sha256'), createHash('sha256')]
  for (let i = 0; i < count; i++) {
    const data = b4a.alloc((i * i) % 307, i)
    sent.update(data).update(String(data.byteLength))
    stream.write(data)
  }
  for (const data of await inbox.take(count)) received.update(data).update(String(data.byteLength))
  assert.equal(await t.sync('sent', sent.digest('hex')), received.digest('hex'))
}

export async function bytes_that_trickle_in (t) {
  const socket = await t.tcp()
  socket.setNoDelay(true)
  const { write } = socket
  socket.write = (data) => {
    for (let i = 0; i < data.byteLength; i++) write.call(socket, data.subarray(i, i + 1))
    return true
  }
  const stream = t.secure(socket)
  const inbox = collect(stream)
  for (const n of range(20)) stream.write(b4a.alloc(n, n))
  assert.deepEqual(await inbox.next(), b4a.from('all there'))
}

// Does the handshake by hand, up to the two headers.
async function shakeHands (t, socket) {
  const noise = new Noise('XX', t.initiator, NODE, { curve })
  noise.initialise(b4a.alloc(0))
  const received = new Inbox()
  socket.on('data', (data) => { for (const byte of data) received.push(byte) })
  while (!noise.complete) {
    if (t.initiator === (noise.handshake.length % 2 === 1)) frame(socket, noise.send())
    else noise.recv(b4a.from(await received.take((await received.take(3))[0])))
  }
}

function frame (socket, data) {
  const length = b4a.alloc(3)
  length.writeUIntLE(data.byteLength, 0, 3)
  socket.write(b4a.concat([length, data]))
}

export async function wrong_bytes (t) {
  if (t.opener) {
    let socket = await t.tcp()
    frame(socket, b4a.from('noise'))
    await over(socket)

    socket = await t.tcp()
    await shakeHands(t, socket)
    frame(socket, b4a.alloc(56, 7)) // no header
    await over(socket)

    for (const message of [b4a.from('too short'), b4a.alloc(30, 7)]) {
      const stream = await t.stream()
      const inbox = collect(stream)
      assert.equal(b4a.toString(await inbox.next()), 'there')
      frame(stream.rawStream, message)
      await t.gone(stream)
    }
  } else {
    const unopened = await t.dial()
    assert.equal(await unopened.opened, false)
    assert.match(String(await t.gone(unopened)), /Noise handshake failed/)

    for (const reason of [/Invalid header received/, /Invalid message received/, /pull failed/]) {
      const stream = await t.dial()
      stream.resume()
      stream.write('there')
      assert.match(String(await t.gone(stream)), reason)
    }
  }
  // Whoever got them lives on.
  await exchange(await t.stream())
}

function over (socket) {
  return new Promise((resolve) => {
    socket.on('error', () => {})
    socket.on('close', resolve)
    socket.on('end', () => socket.destroy())
    socket.resume()
  })
}
