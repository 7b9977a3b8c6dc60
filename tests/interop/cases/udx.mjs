// The Node twins of test_udx.py. `who` says who acts: python, node or both.

import assert from 'node:assert/strict'

import b4a from 'b4a'

import { Inbox, range } from '../twin.mjs'
import { Udx } from '../udx.mjs'

const KIBIBYTE = 1024

const acts = (t) => t.options.who !== 'python'
const isDirect = (t) => t.options.path !== 'bad'
const waits = (t) => t.options.who === 'python'

// A socket on each side, and streams between the two.
async function meet (t, count = 1) {
  const udx = new Udx(t)
  const link = await udx.link()
  return { udx, link, ends: await udx.streams(link, range(count).map((n) => 100 + n)) }
}

// See the streams through their end in order, and let the other side know.
async function over (t, ...ends) {
  for (const end of ends) assert.equal(await end.closed, null)
  await t.sync('closed')
}

async function until (condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5))
}

// Sends so much and END, takes as much and the other's, and sees the stream over.
async function giveAndTake (t, end, size) {
  const sent = await end.pour(size)
  end.stream.end()
  await end.ended
  assert.equal(end.size, size)
  assert.equal(await t.sync('sent', sent), end.digest)
  await over(t, end)
}

export async function both_ways_at_once (t) {
  const size = await t.hear('size')
  const { ends: [end] } = await meet(t)
  await giveAndTake(t, end, size)
}

async function exchange (t, count) {
  const { ends } = await meet(t, count)
  const sent = await Promise.all(ends.map(async (end, n) => {
    const sent = await end.pour(1000 + (n * 7919) % 5000)
    end.stream.end()
    await end.ended
    return sent
  }))
  assert.deepEqual(await t.sync('sent', sent), ends.map((end) => end.digest))
  await over(t, ...ends)
}

export async function two_streams (t) {
  await exchange(t, 2)
}

export async function a_thousand_streams (t) {
  await exchange(t, await t.hear('size'))
}

export async function the_least_and_the_largest_id (t) {
  const udx = new Udx(t)
  const link = await udx.link()
  for (const end of await udx.streams(link, [0, 2 ** 32 - 1])) {
    const sent = await end.pour(1000)
    await end.received(1000)
    assert.equal(await t.sync('sent', sent), end.digest)
  }
}

export async function an_end (t) {
  const { ends: [end] } = await meet(t)
  if (waits(t)) await end.ended
  await giveAndTake(t, end, 50 * KIBIBYTE)
}

export async function an_end_without_data (t) {
  const { ends: [end] } = await meet(t)
  end.stream.resume()
  if (waits(t)) await end.ended
  end.stream.end()
  await end.ended
  assert.equal(await end.closed, null)
  assert.equal(end.size, 0)
  await t.sync('closed')
}

export async function a_destroy (t) {
  const { ends } = await meet(t, 16)
  await Promise.all(ends.map(async (end) => {
    await end.pour(2 * KIBIBYTE)
    await end.received(2 * KIBIBYTE)
  }))
  await t.sync('filled')
  if (acts(t)) for (const end of ends) end.stream.destroy()
  // What says it is sent once.
  let left = acts(t) || isDirect(t) ? ends.length : ends.length / 2
  await new Promise((resolve) => {
    for (const end of ends) {
      end.closed.then((error) => {
        if (waits(t)) assert.equal(error?.code, 'ECONNRESET')
        if (t.options.who === 'node') assert.equal(error, null)
        if (--left === 0) resolve()
      })
    }
  })
  await t.sync('destroyed')
}

export async function a_destroy_in_the_middle (t) {
  const { ends: [end, other] } = await meet(t, 2)
  if (acts(t)) {
    await end.received(100 * KIBIBYTE)
    end.stream.destroy()
    assert.equal(await end.closed, null)
  } else {
    while (!end.stream.destroyed) await end.pour(100 * KIBIBYTE)
    assert.equal((await end.closed)?.code, 'ECONNRESET')
  }
  const sent = await other.pour(20 * KIBIBYTE)
  await other.received(20 * KIBIBYTE)
  assert.equal(await t.sync('sent', sent), other.digest)
}

export async function messages (t) {
  const message = (n, sender) => {
    const text = `${sender} ${n} `
    return text.repeat(1 + n * 11).slice(0, text.length + n * 11)
  }
  const { ends: [end] } = await meet(t)
  for (const n of range(100)) end.stream.trySend(b4a.from(message(n, 'node')))
  const sent = await end.pour(10 * KIBIBYTE)
  const known = new Set(range(100).map((n) => message(n, 'python')))
  const wanted = new Set(known)
  const left = isDirect(t) ? 0 : 25 // they may be lost, and come twice
  while (wanted.size > left) {
    const came = b4a.toString(await end.messages.next())
    assert.ok((isDirect(t) ? wanted : known).has(came), came)
    wanted.delete(came)
  }
  await end.received(10 * KIBIBYTE)
  assert.equal(await t.sync('sent', sent), end.digest)
}

export async function a_change_of_the_remote (t) {
  const size = await t.hear('size')
  const { udx, link, ends: [end] } = await meet(t)
  const first = end.pour(size)
  await end.received(size / 4)
  const next = await udx.link(acts(t) ? null : link.socket)
  await end.stream.changeRemote(next.socket, end.remoteId, next.port, next.host)
  await end.received(size)
  assert.equal(await t.sync('first', await first), end.digest)
  if (acts(t)) await link.socket.close()
  await t.sync('old ones closed')
  await end.pour(size)
  end.stream.end()
  await end.ended
  assert.equal(end.size, 2 * size)
  await over(t, end)
}

export async function a_full_window (t) {
  const size = await t.hear('size')
  const { ends: [end] } = await meet(t)
  await t.sync('paused')
  const sent = end.pour(size)
  await end.received(20 * KIBIBYTE)
  t.tell('digest', end.digest)
  t.tell('sent', await sent)
  end.stream.end()
  await end.ended
  await over(t, end)
}

export async function a_reader_of_theirs_that_pauses (t) {
  const size = await t.hear('size')
  const { ends: [end] } = await meet(t)
  end.stream.pause()
  const sent = await t.hear('sent')
  await until(() => end.stream.bytesReceived > size)
  assert.equal(end.size, 0)
  end.stream.resume()
  await end.ended
  assert.equal(end.digest, sent)
  end.stream.end()
  await over(t, end)
}

export async function the_mtu (t) {
  const size = await t.hear('size')
  const mtu = await t.hear('mtu')
  const { ends: [end] } = await meet(t)
  for (let number = 1; number <= 20; number++) {
    const sent = await end.pour(size)
    await end.received(number * size)
    const theirs = await t.sync('sent', sent)
    if (number === 1) assert.equal(theirs, end.digest)
    const mine = end.stream.mtu
    if (await t.sync('mtu', mine) === mtu && mine === mtu) return
  }
}

export async function our_mtu_over_a_path_that_loses_and_reorders (t) {
  const size = await t.hear('size')
  const { ends: [end] } = await meet(t)
  await end.received(size)
  assert.equal(await t.sync('sent', null), end.digest)
}

export async function keep_alive (t) {
  const { ends: [end] } = await meet(t)
  const { stream } = end
  if (acts(t)) stream.setKeepalive(20)
  // Their heartbeats, or what acknowledges ours.
  await until(() => stream.packetsReceived >= 5)
  await t.sync('kept')
  assert.equal(end.size, 0)
  end.stream.end()
  await end.ended
  await over(t, end)
}

export async function datagrams_of_ones_own (t) {
  const { link } = await meet(t)
  const came = new Inbox()
  link.socket.on('message', (data, from) => came.push([b4a.toString(data), from.port]))
  await t.sync('listening')
  for (const each of ['one of node', 'n', 'n'.repeat(1200)]) {
    link.socket.trySend(b4a.from(each), link.port, link.host)
  }
  for (const each of ['one of python', 'p', 'p'.repeat(1200)]) {
    assert.deepEqual(await came.next(), [each, link.port])
  }
  await t.sync('heard')
}
