// The Node twins of test_udx_stack.py.

import assert from 'node:assert/strict'

import b4a from 'b4a'

import { Inbox, range } from '../twin.mjs'
import { Udx } from '../udx.mjs'

export async function unordered_messages (t) {
  const stream = await t.stream()
  const came = new Inbox()
  stream.on('message', (data) => came.push(b4a.toString(data)))
  await t.sync('open')
  for (const n of range(100)) stream.trySend(b4a.from(`${n} of node`.repeat(n % 90 + 1)))
  const known = new Set(range(100).map((n) => `${n} of python`.repeat(n % 90 + 1)))
  const wanted = new Set(known)
  const left = t.options.path === 'bad' ? 25 : 0 // they may be lost
  while (wanted.size > left) {
    const message = await came.next()
    assert.ok(known.has(message), message)
    wanted.delete(message)
  }
  await t.sync('enough')
  await exchange(stream)
}

export async function an_end (t) {
  const stream = await t.stream()
  const came = new Inbox()
  stream.on('data', (data) => came.push(data))
  const ended = new Promise((resolve) => stream.on('end', resolve))
  for (const n of range(100)) stream.write(b4a.alloc(500, n))
  if (t.opener) stream.end()
  assert.deepEqual(await came.take(100), range(100).map((n) => b4a.alloc(500, n)))
  await ended
  if (!t.opener) stream.end()
  assert.equal(await t.gone(stream), null)
  await t.sync('closed')
}

export async function connecting_and_serving (t) {
  const udx = new Udx(t)
  const link = await udx.link()
  const [raw] = await udx.connect(link, [3], (stream) => stream, { framed: true })
  const stream = t.secure(raw)
  assert.equal(await stream.opened, true)
  const ended = new Promise((resolve) => stream.on('end', resolve))
  await exchange(stream)
  await ended
  stream.end()
  assert.equal(await t.gone(stream), null)
  await t.sync('closed')
}

async function exchange (stream) {
  const came = new Inbox()
  stream.on('data', (data) => came.push(b4a.toString(data)))
  stream.write('hello from node')
  assert.equal(await came.next(), 'hello from python')
}
