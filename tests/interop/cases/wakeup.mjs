// The Node twins of test_wakeup.py.

import assert from 'node:assert/strict'

import b4a from 'b4a'
import crypto from 'hypercore-crypto'
import Wakeup from 'protomux-wakeup'

import { Inbox, protocols, range } from '../twin.mjs'

const CAPABILITY = b4a.alloc(32, 1)
const OTHER = b4a.alloc(32, 2)
const KEY = b4a.alloc(32, 3)
const HASH = b4a.alloc(32, 4)
const TOPIC = b4a.alloc(32, 5)

const LENGTHS = [0, 1, 0xfc, 0xfd, 0xffff, 0x10000, 0xffffffff, 0x100000000, 2 ** 53 - 1]

const writer = (n) => {
  const key = b4a.alloc(32)
  key.writeUInt32LE(n)
  return { key, length: n * 7919 }
}

// Hooks that log: 'add', 'active', 'inactive', 'remove', 'destroy', ['lookup', hash], and
// ['announce', writers].
function hooks (log) {
  return {
    onpeeradd: () => log.push('add'),
    onpeeractive: () => log.push('active'),
    onpeerinactive: () => log.push('inactive'),
    onpeerremove: () => log.push('remove'),
    ondestroy: () => log.push('destroy'),
    onlookup: (req) => log.push(['lookup', req.hash]),
    onannounce: (writers) => log.push(['announce', writers])
  }
}

// One topic on one stream: the opener has a session beforehand, the other side makes one in
// onwakeup, so that it is opened to.
async function meet (t, stream, { capability = CAPABILITY, log = new Inbox(), ...options } = {}) {
  const handlers = { ...hooks(log), ...options }
  if (t.opener) {
    const w = new Wakeup()
    const session = w.session(capability, handlers)
    w.addStream(stream)
    return { w, session, log }
  }
  return new Promise((resolve) => {
    const w = new Wakeup((id) => {
      assert.deepEqual(id, options.discoveryKey ?? crypto.discoveryKey(capability))
      resolve({ w, session: w.session(capability, handlers), log })
    })
    w.addStream(stream)
  })
}

export async function lookup_and_announce (t) {
  const stream = await t.stream()
  const { w, session, log } = await meet(t, stream)
  assert.deepEqual(await log.take(2), ['add', 'active'])
  const [peer] = session.peers

  if (t.opener) {
    session.lookup(peer)
    session.lookup(peer, { hash: HASH })
    session.lookupByStream(stream)
    session.broadcastLookup({ hash: HASH })
    const answers = range(4).map((n) => ['announce', [{ key: KEY, length: n }]])
    assert.deepEqual(await log.take(4), answers)
  } else {
    const hashes = [null, HASH, null, HASH]
    for (const [n, hash] of hashes.entries()) {
      assert.deepEqual(await log.next(), ['lookup', hash])
      if (n % 2) session.announce(peer, [{ key: KEY, length: n }])
      else session.announceByStream(stream, [{ key: KEY, length: n }])
    }
  }
  await t.sync('done')
  const [mine, theirs] = t.opener ? [4, 0] : [0, 4]
  assert.deepEqual(w.stats, {
    sessionsOpened: 1,
    sessionsClosed: 0,
    topicsAdded: 1,
    topicsGcd: 0,
    peersAdded: 1,
    peersRemoved: 0,
    wireAnnounce: { rx: mine, tx: theirs },
    wireLookup: { rx: theirs, tx: mine },
    wireInfo: { rx: 0, tx: 0 }
  })
  assert.equal(w.hasStream(stream), true)
  assert.equal(w.hasStream(stream, CAPABILITY), true)
  assert.equal(w.hasStream(stream, OTHER), false)
  assert.ok(session.getPeer(stream) === peer)
}

export async function announces_of_every_size (t) {
  const { session, log } = await meet(t, await t.stream())
  assert.deepEqual(await log.take(2), ['add', 'active'])

  for (const announces of [t.opener, !t.opener]) {
    for (const count of [0, 1, 1000, 100_000]) {
      if (announces) session.announce(session.peers[0], range(count).map(writer))
      else {
        const [what, writers] = await log.next()
        assert.equal(what, 'announce')
        assert.equal(writers.length, count)
        for (const [n, { key, length }] of writers.entries()) {
          assert.ok(b4a.equals(key, writer(n).key) && length === writer(n).length, `entry ${n}`)
        }
      }
    }
  }
}

export async function announced_lengths_at_every_boundary (t) {
  const { session, log } = await meet(t, await t.stream())
  assert.deepEqual(await log.take(2), ['add', 'active'])

  const writers = LENGTHS.map((length) => ({ key: KEY, length }))
  session.announce(session.peers[0], writers)
  assert.deepEqual(await log.next(), ['announce', writers])
}

export async function active_and_inactive (t) {
  const { w, session, log } = await meet(t, await t.stream())
  assert.deepEqual(await log.take(2), ['add', 'active'])
  const [peer] = session.peers

  for (const [turn, moves] of [t.opener, !t.opener].entries()) {
    if (moves) {
      session.inactive()
      session.inactive() // not told again
      session.lookup(peer) // still works
      await t.hear('seen ' + turn)
      session.active()
      assert.equal(session.isActive, true)
    } else {
      assert.deepEqual(await log.take(2), ['inactive', ['lookup', null]])
      assert.equal(peer.active, false)
      t.tell('seen ' + turn)
      assert.equal(await log.next(), 'active')
      assert.equal(peer.active, true)
    }
  }
  await t.sync('done')
  assert.deepEqual(w.stats.wireInfo, { rx: 2, tx: 2 })
}

export async function two_sessions_on_one_topic (t) {
  const stream = await t.stream()
  const { w, session: first, log } = await meet(t, stream)
  const log2 = new Inbox()
  assert.deepEqual(await log.take(2), ['add', 'active'])
  const second = w.session(CAPABILITY, hooks(log2))
  await t.sync('two sessions')
  assert.ok(second.topic === first.topic)
  assert.equal(w.getSessions(CAPABILITY).length, 2)
  assert.ok(second.peers[0] === first.peers[0])

  const [peer] = second.peers
  if (t.opener) {
    first.inactive() // the topic is still active
    second.lookup(peer, { hash: HASH })
    second.inactive()
    first.active()
    second.destroy()
    first.lookup(peer)
  } else {
    const events = [['lookup', HASH], 'inactive', 'active', ['lookup', null]]
    assert.deepEqual(await log.take(4), events)
    assert.deepEqual(log2.items, events)
    second.destroy()
    first.lookup(peer)
  }
  await t.sync('moved')
  if (t.opener) assert.deepEqual(await log.next(), ['lookup', null])
  assert.equal(w.getSessions(CAPABILITY).length, 1)
}

export async function both_sides_have_a_session (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const w = new Wakeup()
  const log = new Inbox()
  const session = w.session(CAPABILITY, hooks(log))
  w.addStream(stream) // opens are under way in both directions

  session.broadcastLookup()
  assert.deepEqual(await log.take(3), ['add', 'active', ['lookup', null]])
  await t.fence(mux)
  assert.deepEqual(log.items, [])
  assert.equal([...mux].length, 2, 'one channel, and the fence')
  assert.equal(w.stats.peersAdded, 1)
}

export async function a_topic_under_a_custom_discovery_key (t) {
  const { w, session, log } = await meet(t, await t.stream(), {
    capability: b4a.from('any bytes'),
    discoveryKey: TOPIC
  })
  assert.deepEqual(await log.take(2), ['add', 'active'])
  assert.deepEqual(session.topic.id, TOPIC)
  assert.deepEqual([...w.topics.keys()], [b4a.toString(TOPIC, 'hex')])
  session.lookup(session.peers[0])
  assert.deepEqual(await log.next(), ['lookup', null])
}

export async function a_wrong_capability (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const { w, session, log } = await meet(t, stream, {
    capability: t.initiator ? CAPABILITY : OTHER,
    discoveryKey: TOPIC
  })
  await t.fence(mux)
  await t.fence(mux) // also what was sent in answer
  assert.deepEqual(log.items, [])
  assert.deepEqual(session.peers, [])
  assert.equal(w.hasStream(stream, b4a.alloc(1), { discoveryKey: TOPIC }), false)
}

export async function messages_of_an_unproven_peer (t) {
  // This side has the wrong capability, and sends all it can right behind its open.
  const stream = await t.stream()
  const mux = t.mux(stream)
  const w = new Wakeup()
  const log = new Inbox()
  const session = w.session(OTHER, { ...hooks(log), discoveryKey: TOPIC })
  w.addStream(stream)
  session.broadcastLookup({ hash: HASH })
  session.announce(session.topic.pendingPeers[0], [{ key: KEY, length: 1 }])
  session.inactive()
  session.active()
  session.lookup(session.topic.pendingPeers[0])

  t.tell('sent')
  await t.fence(mux)
  assert.equal(await t.hear('stats'), 'untouched')
  assert.deepEqual(session.peers, [])
  assert.deepEqual(log.items, [])
}

export async function a_session_made_in_on_wakeup (t) {
  const stream = await t.stream()

  if (t.opener) {
    const { session, log } = await meet(t, stream)
    session.broadcastLookup({ hash: HASH }) // to the pending peer, behind the open
    t.tell('sent')
    assert.deepEqual(await log.take(3), ['add', 'active', ['announce', [{ key: KEY, length: 1 }]]])
    return
  }

  const log = new Inbox()
  const made = new Inbox()
  const make = (id) => made.push([id, w.session(CAPABILITY, hooks(log))])
  const makeLater = async (id) => {
    await t.hear('sent')
    make(id)
  }
  const w = new Wakeup(t.options.when === 'async' ? makeLater : make)
  w.addStream(stream)
  const [id, session] = await made.next()
  assert.deepEqual(id, crypto.discoveryKey(CAPABILITY))
  assert.deepEqual(await log.take(3), ['add', 'active', ['lookup', HASH]])
  session.announce(session.peers[0], [{ key: KEY, length: 1 }])
}

export async function on_wakeup_declines (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const log = new Inbox()
  const asked = []
  const w = new Wakeup((id, m) => asked.push([b4a.toString(id, 'hex'), m === mux]))
  w.addStream(stream)

  if (t.opener) {
    const session = w.session(CAPABILITY, hooks(log))
    session.broadcastLookup()
    assert.equal(w.hasStream(stream, CAPABILITY), true)
    await t.fence(mux)
    await t.fence(mux) // the rejection
    assert.equal(w.hasStream(stream, CAPABILITY), false)
    assert.deepEqual([session.peers, log.items, asked], [[], [], []])
  } else {
    await t.fence(mux)
    await t.fence(mux)
    assert.deepEqual(asked, [[b4a.toString(crypto.discoveryKey(CAPABILITY), 'hex'), true]])
    assert.equal(w.topics.size, 0)
  }
  assert.equal(w.hasStream(stream), true)
}

export async function an_inactive_topic_answers_but_does_not_open (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const w = new Wakeup()
  const log = new Inbox()
  const session = w.session(CAPABILITY, { ...hooks(log), active: false })
  w.addStream(stream)
  await t.fence(mux)
  await t.fence(mux)
  assert.deepEqual(protocols(mux), ['fence', 'fence'])
  await t.sync('none has opened')

  if (t.opener) {
    session.active()
    assert.deepEqual(await log.take(2), ['add', 'active'])
  } else {
    assert.deepEqual(await log.take(2), ['add', 'active'])
    session.active()
  }
  assert.equal(session.peers[0].active, true)
}

export async function a_stream_is_lost_and_another_comes (t) {
  const w = new Wakeup()
  const log = new Inbox()
  const session = w.session(CAPABILITY, hooks(log))

  for (const how of ['destroyed', 'cut', 'ended', 'stays']) {
    const stream = await t.stream()
    w.addStream(stream)
    assert.deepEqual(await log.take(2), ['add', 'active'])
    const [peer] = session.peers
    session.lookup(peer)
    assert.deepEqual(await log.next(), ['lookup', null])
    await t.sync('asked')
    if (how === 'stays') break

    if (t.opener) {
      session.announce(peer, range(1000).map(writer)) // may or may not arrive
      if (how === 'destroyed') stream.destroy(new Error('on purpose'))
      else if (how === 'cut') stream.rawStream.destroy()
      else stream.end()
    }
    await t.gone(stream)
    assert.deepEqual(log.items.filter((event) => event[0] !== 'announce'), ['inactive', 'remove'])
    log.items.length = 0
    assert.deepEqual(session.peers, [])
    assert.equal(session.getPeer(stream), null)
    assert.equal(w.hasStream(stream), false)
    assert.equal(peer.removed, true)
    await t.sync('lost')
  }
  assert.deepEqual([w.stats.peersAdded, w.stats.peersRemoved], [4, 3])
}

export async function two_hundred_topics_on_one_stream (t) {
  const count = 200
  const capabilities = range(count).map((n) => b4a.alloc(32, n))
  const hex = (id) => b4a.toString(id, 'hex')
  const numbers = new Map(capabilities.map((each, n) => [hex(crypto.discoveryKey(each)), n]))
  const stream = await t.stream()
  const mux = t.mux(stream)
  const done = new Inbox()
  const byNumber = ([a], [b]) => a - b

  if (t.opener) {
    const w = new Wakeup()
    for (const [n, capability] of capabilities.entries()) {
      w.session(capability, {
        onpeeradd: (peer, session) => session.announce(peer, [{ key: KEY, length: n }]),
        onlookup: (req) => done.push([n, req.hash])
      })
    }
    w.addStream(stream)
    assert.deepEqual((await done.take(count)).sort(byNumber), range(count).map((n) => [n, HASH]))
    assert.equal(w.stats.peersAdded, count)
    return
  }

  const w = new Wakeup((id) => {
    const n = numbers.get(hex(id))
    w.session(capabilities[n], {
      onannounce: ([{ length }], peer, session) => {
        done.push([n, length])
        session.lookup(peer, { hash: HASH })
      }
    })
  })
  w.addStream(stream)
  assert.deepEqual((await done.take(count)).sort(byNumber), range(count).map((n) => [n, n]))
  assert.equal(w.topics.size, count)
  assert.equal(mux.frames.items[0].entries.length, count, 'the Python side opens all in one batch')
}

export async function a_hundred_streams_on_one_topic (t) {
  const count = 100
  const log = new Inbox()
  const w = new Wakeup()
  const session = w.session(CAPABILITY, {
    onpeeradd: () => log.push('add'),
    onlookup: (req, peer, session) => session.announce(peer, [{ key: KEY, length: 1 }]),
    onannounce: (writers) => log.push(writers[0].key),
    onpeerremove: () => log.push('remove')
  })
  const streams = []
  for (let i = 0; i < count; i++) {
    streams.push(await t.stream())
    w.addStream(streams[i])
  }
  assert.deepEqual(await log.take(count), range(count).map(() => 'add'))
  assert.equal(session.peers.length, count)
  assert.deepEqual(new Set(session.peers.map((peer) => peer.stream)), new Set(streams))

  await t.sync('all there')
  if (t.opener) {
    session.broadcastLookup()
    assert.deepEqual(await log.take(count), range(count).map(() => KEY))
    for (const stream of streams.slice(0, 50)) stream.destroy()
  }
  assert.deepEqual(await log.take(50), range(50).map(() => 'remove'))
  assert.equal(session.peers.length, 50)
}

export async function an_idle_topic_is_collected (t) {
  const stream = await t.stream()
  const w = new Wakeup(undefined, { gcTickTime: 10 })
  const log = new Inbox()
  const session = w.session(CAPABILITY, hooks(log))
  w.addStream(stream)
  assert.deepEqual(await log.take(2), ['add', 'active'])
  await t.sync('met') // neither acts before

  if (t.opener) {
    session.destroy()
    await t.hear('still there')
    assert.equal(w.topics.size, 1, 'kept as long as a peer is active')
    t.tell('looked')
    await t.hear('removed')
    assert.equal(w.topics.size, 0)
    assert.deepEqual([w.stats.topicsGcd, w.stats.sessionsClosed], [1, 1])
  } else {
    assert.equal(await log.next(), 'inactive')
    t.tell('still there')
    await t.hear('looked')
    session.inactive()
    assert.equal(await log.next(), 'remove')
    t.tell('removed')
    assert.equal(w.topics.size, 1)
  }
}

export async function a_wakeup_is_destroyed (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const { w, session, log } = await meet(t, stream)
  assert.deepEqual(await log.take(2), ['add', 'active'])
  await t.sync('met') // neither acts before

  if (t.opener) {
    w.destroy()
    assert.deepEqual(log.items, ['inactive', 'remove', 'destroy'])
    assert.equal(w.topics.size, 0)
  } else {
    assert.deepEqual(await log.take(2), ['inactive', 'remove'])
    assert.deepEqual(session.peers, [])
  }
  await t.fence(mux) // the stream lives
}

export async function a_stream_is_added_before_it_is_open (t) {
  const stream = await t.dial()
  const w = new Wakeup()
  const log = new Inbox()
  const session = w.session(CAPABILITY, hooks(log))
  w.addStream(stream)
  assert.deepEqual(await log.take(2), ['add', 'active'])
  assert.ok(session.peers[0].stream === stream)
}
