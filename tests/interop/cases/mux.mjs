// The Node twins of test_mux.py: opening, pairing, closing. A case here and the test of the same
// name there are one case; each plays either role, and `t.opener` says whether this side opens or
// is opened to.

import assert from 'node:assert/strict'

import b4a from 'b4a'
import c from 'compact-encoding'

import {
  CLOSED_BY_REMOTE, CLOSED_BY_US, Inbox, deferred, entries, message, protocols, range
} from '../twin.mjs'

// --- opening and pairing

export async function basic (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo')

  if (t.opener) foo.send('hello world')
  assert.deepEqual(await foo.log.next(), ['open', null])
  if (!t.opener) assert.deepEqual(await foo.log.next(), message('hello world'))
  await t.fence(mux)
  assert.deepEqual(foo.log.items, [])
}

export async function echo (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const other = t.watch(mux, 'other') // nobody pairs with this one
    other.channel.open()
    const foo = await t.meet(mux, 'foo')
    foo.send('hello world')
    assert.deepEqual(await foo.log.take(2), [['open', null], message('echo: hello world')])
    assert.deepEqual(await other.log.take(2), CLOSED_BY_REMOTE)
    assert.deepEqual(protocols(mux), ['foo'])
  } else {
    const foo = await t.meet(mux, 'foo', {
      messages: [{ encoding: c.string, onmessage: (m) => foo.send('echo: ' + m) }]
    })
  }
  await t.fence(mux)
}

export async function both_open_at_once (t) {
  const mux = t.mux(await t.stream())
  // Both open before either has read anything.
  const foo = t.watch(mux, 'foo', { handshake: c.uint })
  foo.channel.open(t.initiator ? 1 : 2)
  foo.send('first')

  assert.deepEqual(await foo.log.take(2), [['open', t.initiator ? 2 : 1], message('first')])
  foo.send('second')
  assert.deepEqual(await foo.log.next(), message('second'))
  await t.fence(mux)
  const opens = entries(mux).filter((entry) => / foo/.test(entry))
  assert.deepEqual(opens, [`open 1 foo +0${t.initiator ? 2 : 1}`])
}

export async function many_open_at_once_pair_in_order (t) {
  const mux = t.mux(await t.stream())
  const opened = range(5).map((n) => {
    const foo = t.watch(mux, 'foo', { unique: false, handshake: c.uint })
    foo.channel.open(n)
    return foo
  })

  for (const [n, foo] of opened.entries()) {
    assert.deepEqual(await foo.log.next(), ['open', n])
    foo.send('on ' + n)
    assert.deepEqual(await foo.log.next(), message('on ' + n))
  }
}

export async function pairs_by_protocol_and_id_in_order (t) {
  const mux = t.mux(await t.stream())
  const [one, two] = [b4a.from([1]), b4a.from([1, 2])]
  const names = [['foo', null], ['foo', one], ['foo', two], ['bar', one]]
  const all = [...names, ...names, ...names] // three of each, numbered 0 to 11

  if (t.opener) {
    const opened = all.map(([protocol, id], n) => {
      const watched = t.watch(mux, protocol, { id, unique: false, handshake: c.uint })
      watched.channel.open(n)
      return watched
    })
    const answers = []
    for (const { log } of opened) answers.push((await log.next())[1])
    // The other side opens the names in reverse, the three of a name in the order of their opens.
    assert.deepEqual(answers, [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8])
    return
  }

  const paired = []
  let n = 0
  const offers = new Inbox()
  const { promise: pairedAll, resolve } = deferred()
  for (const protocol of ['foo', 'bar']) {
    mux.pair({ protocol }, async (id) => {
      offers.push([protocol, id])
      await pairedAll
    })
  }
  assert.deepEqual(await offers.take(12), all)
  for (let round = 0; round < 3; round++) {
    for (const [protocol, id] of [...names].reverse()) {
      const watched = t.watch(mux, protocol, { id, unique: false, handshake: c.uint })
      watched.channel.open(n++)
      paired.push(watched)
    }
  }
  resolve()
  const seen = []
  for (const { log } of paired) seen.push((await log.next())[1])
  assert.deepEqual(seen, [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8])
}

export async function messages_are_held_until_the_local_open (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const foo = t.watch(mux, 'foo', { types: [c.string, c.uint], handshake: c.string })
    foo.channel.open('hi')
    foo.send('early')
    for (const n of range(20)) foo.send(n, 1)
    await t.sync('sent')
    foo.send('late')
    t.tell('sent more')
    assert.deepEqual(await foo.log.take(2), [['open', 'hello'], message('answer')])
    return
  }

  const offered = new Inbox()
  mux.pair({ protocol: 'foo' }, async () => {
    offered.push('foo')
    await t.hear('sent more')
    const foo = t.watch(mux, 'foo', { types: [c.string, c.uint], handshake: c.string })
    foo.channel.open('hello')
    foo.send('answer')
    offered.push(foo)
  })
  await offered.next()
  await t.sync('sent')
  const foo = await offered.next()
  assert.deepEqual(await foo.log.take(23), [
    ['open', 'hi'],
    message('early'),
    ...range(20).map((n) => message(n, 1)),
    message('late')
  ])
}

export async function handshakes (t) {
  const mux = t.mux(await t.stream())
  const [mine, theirs] = t.initiator ? ['yes', 'no'] : ['no', 'yes']
  const foo = await t.meet(mux, 'foo', { handshake: c.string, open: mine })

  assert.deepEqual(await foo.log.next(), ['open', theirs])
  assert.equal(foo.channel.handshake, theirs)
}

export async function unique (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo', { unique: true })
  await foo.channel.fullyOpened()

  assert.equal(t.watch(mux, 'foo'), null)
  assert.equal(mux.opened({ protocol: 'foo' }), true)
  assert.ok(mux.getLastChannel({ protocol: 'foo' }) === foo.channel)
  assert.equal(mux.opened({ protocol: 'foo', id: b4a.from([1]) }), false)
  assert.equal(mux.getLastChannel({ protocol: 'bar' }), null)
  await t.fence(mux) // both have looked

  const second = await t.meet(mux, 'foo', { unique: false })
  await second.channel.fullyOpened()
  await t.sync('two are open')
  assert.ok(mux.getLastChannel({ protocol: 'foo' }) === second.channel)
  await t.sync('both have looked')
  second.channel.close()
  await second.channel.fullyClosed()
  assert.equal(mux.getLastChannel({ protocol: 'foo' }), null)
  assert.equal(mux.opened({ protocol: 'foo' }), true)
  await t.fence(mux)
  assert.equal(foo.channel.closed, false)
}

export async function user_data_is_there_on_open (t) {
  const mux = t.mux(await t.stream())
  const seen = new Inbox()
  const create = () => {
    const channel = mux.createChannel({
      protocol: 'foo',
      id: b4a.alloc(32),
      onopen: (_, channel) => seen.push(channel.userData)
    })
    channel.userData = 'mine'
    channel.open()
  }

  if (t.opener) create()
  else mux.pair({ protocol: 'foo', id: b4a.alloc(32) }, async () => create())
  assert.equal(await seen.next(), 'mine')
}

export async function on_open_runs_after_the_pair_callback (t) {
  const mux = t.mux(await t.stream())
  const id = b4a.alloc(32)
  const log = new Inbox()
  const create = () => {
    mux.createChannel({ protocol: 'foo', id, onopen: () => log.push('open') }).open()
    log.push('created')
  }

  if (t.opener) create()
  else {
    mux.pair({ protocol: 'foo', id }, () => {
      create()
      log.push('paired')
    })
  }
  const order = t.opener ? ['created', 'open'] : ['created', 'paired', 'open']
  assert.deepEqual(await log.take(order.length), order)
}

export async function the_id_outlives_its_frame (t) {
  const mux = t.mux(await t.stream())
  const id = b4a.alloc(32, 7)

  if (t.opener) {
    const foo = t.watch(mux, 'foo', { id })
    foo.channel.open()
    assert.deepEqual(await foo.log.next(), ['open', null])
  } else {
    const offered = await new Promise((resolve) => {
      mux.pair({ protocol: 'foo' }, (id) => {
        t.watch(mux, 'foo', { id }).channel.open()
        resolve(id)
      })
    })
    assert.deepEqual(offered, id)
    assert.equal(offered.buffer.byteLength, 32, 'holds on to nothing but itself')
  }
}

export async function pair_serves_the_exact_id_then_the_protocol (t) {
  const mux = t.mux(await t.stream())
  const one = b4a.from([1])
  const two = b4a.from([2])

  if (t.opener) {
    const outcomes = async () => {
      const opened = []
      for (const id of [one, two, null]) {
        const { channel } = t.watch(mux, 'foo', { id })
        channel.open()
        opened.push(await channel.fullyOpened())
        channel.close()
      }
      return opened
    }
    assert.deepEqual(await outcomes(), [true, true, true])
    await t.sync('seen')
    await t.sync('id unpaired')
    assert.deepEqual(await outcomes(), [true, true, true])
    await t.sync('seen')
    await t.sync('protocol unpaired')
    assert.deepEqual(await outcomes(), [false, false, false])
    return
  }

  const calls = []
  const answer = (name) => (id) => {
    calls.push([name, id])
    mux.createChannel({ protocol: 'foo', id, unique: false }).open()
  }
  mux.pair({ protocol: 'foo', id: one }, answer('exact'))
  mux.pair({ protocol: 'foo' }, answer('protocol'))
  await t.sync('seen')
  mux.unpair({ protocol: 'foo', id: one })
  await t.sync('id unpaired')
  await t.sync('seen')
  mux.unpair({ protocol: 'foo' })
  await t.sync('protocol unpaired')
  assert.deepEqual(calls, [
    ['exact', one], ['protocol', two], ['protocol', null],
    ['protocol', one], ['protocol', two], ['protocol', null]
  ])
}

export async function an_async_pair_callback_decides_later (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const foo = t.watch(mux, 'foo')
    const bar = t.watch(mux, 'bar')
    foo.channel.open()
    await t.hear('offered') // on its own: the original answers nothing of a batch before all of it
    bar.channel.open()
    // An async callback that ends without a channel is a rejection, whatever else waits.
    assert.deepEqual(await bar.log.take(2), CLOSED_BY_REMOTE)
    assert.deepEqual(foo.log.items, [])
    t.tell('rejected')
    assert.deepEqual(await foo.log.next(), ['open', null])
  } else {
    mux.pair({ protocol: 'bar' }, async () => { await null })
    const foo = await new Promise((resolve) => {
      mux.pair({ protocol: 'foo' }, async () => {
        t.tell('offered')
        await t.hear('rejected')
        const foo = t.watch(mux, 'foo')
        foo.channel.open()
        await null
        resolve(foo)
      })
    })
    assert.deepEqual(await foo.log.next(), ['open', null])
  }
  await t.fence(mux)
}

export async function an_alias_of_ours_pairs (t) {
  // The Python side knows "foo", alias "bar"; this one only "bar".
  const mux = t.mux(await t.stream())
  const bar = t.watch(mux, 'bar', { handshake: c.string })
  bar.channel.open('node')
  bar.send('hello from node')
  assert.deepEqual(await bar.log.take(3), [
    ['open', 'python'], message('hello from python'), message('on open')
  ])
  bar.send('bye')
  await t.fence(mux)
  assert.deepEqual(bar.log.items, [])
}

export async function an_alias_of_theirs_pairs_one_way (t) {
  // This side knows "foo", alias "bar"; the Python side only "bar", and rejects "foo". The original
  // forgets that it was paired through the alias, and takes that rejection for a stray one.
  const mux = t.mux(await t.stream())
  const foo = t.watch(mux, 'foo', { aliases: ['bar'], handshake: c.string })
  foo.channel.open('node')
  assert.deepEqual(await foo.log.take(2), [['open', 'python'], message('hello from python')])
  assert.match(String(await t.gone(mux.stream)), /Invalid reject message/)
  assert.deepEqual(foo.log.items, CLOSED_BY_REMOTE)
}

// --- opened or not

export async function wait_opened_and_wait_closed (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const { channel } = t.watch(mux, 'foo')
    channel.open()
    assert.equal(await channel.fullyOpened(), false)
    assert.equal(await channel.fullyOpened(), false, 'also when asked again')
    await channel.fullyClosed()
  }
  await t.sync('rejected')

  const { channel, log } = await t.meet(mux, 'foo')
  assert.equal(await channel.fullyOpened(), true)
  assert.equal(await channel.fullyOpened(), true)
  if (!t.opener) channel.close()
  await channel.fullyClosed()
  await channel.fullyClosed()
  assert.deepEqual(log.items, [['open', null], ...(t.opener ? CLOSED_BY_REMOTE : CLOSED_BY_US)])
}

export async function rejections (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const opened = range(10).map((n) => {
      const watched = t.watch(mux, 'foo#' + n)
      watched.channel.open()
      return watched
    })
    for (const { channel, log } of opened) {
      assert.deepEqual(await log.take(2), CLOSED_BY_REMOTE)
      assert.equal(await channel.fullyOpened(), false)
    }
    assert.equal(mux.isIdle(), true)
  }
  await t.fence(mux)
  assert.deepEqual(protocols(mux), ['fence'])
}

export async function close_ahead_of_the_rejection (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    for (const n of range(10)) {
      const { channel, log } = t.watch(mux, 'foo#' + n)
      channel.open()
      channel.close()
      assert.deepEqual(log.items, CLOSED_BY_US)
    }
    const last = t.watch(mux, 'last')
    last.channel.open()
    assert.equal(mux.isIdle(), false, 'the numbers are in use until their opens are answered')
    assert.deepEqual(await last.log.take(2), CLOSED_BY_REMOTE)
    assert.equal(mux.isIdle(), true)
    // Freed in the order 1 to 11, taken again from the end.
    for (const name of ['x', 'y', 'z']) t.watch(mux, name).channel.open()
  }
  await t.fence(mux)
  const opens = t.opener ? [] : ['open 11 x', 'open 10 y', 'open 9 z']
  assert.deepEqual(entries(mux).filter((entry) => / [xyz]$/.test(entry)), opens)
}

// --- closing

export async function either_side_closes (t) {
  const mux = t.mux(await t.stream())

  for (const [name, closes] of [['foo', t.opener], ['bar', !t.opener]]) {
    const { channel, log, send } = await t.meet(mux, name)
    await channel.fullyOpened()
    if (closes) {
      send('last words')
      channel.close()
      channel.close()
      assert.deepEqual(log.items, [['open', null], ...CLOSED_BY_US])
    } else {
      const life = [['open', null], message('last words'), ...CLOSED_BY_REMOTE]
      assert.deepEqual(await log.take(4), life)
    }
    assert.equal(send('too late'), false)
    assert.equal(mux.isIdle(), true)
    assert.equal(mux.opened({ protocol: name }), false)
    await t.sync('closed ' + name)
  }
}

export async function both_close_at_once (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo')
  await foo.channel.fullyOpened()

  mux.stream.pause()
  await t.sync('paused') // neither sees the other's close before its own
  foo.channel.close()
  await t.sync('closed')
  mux.stream.resume()
  await t.fence(mux)
  assert.deepEqual(foo.log.items, [['open', null], ...CLOSED_BY_US])

  const again = await t.meet(mux, 'foo')
  assert.equal(await again.channel.fullyOpened(), true)
}

export async function messages_in_flight_are_dropped_after_a_close (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo')
  await foo.channel.fullyOpened()

  mux.stream.pause()
  await t.sync('paused')
  if (t.opener) {
    for (const n of range(5)) foo.send('in flight ' + n)
    t.tell('sent')
  } else {
    foo.channel.close()
    await t.hear('sent')
  }
  mux.stream.resume()
  await t.fence(mux)
  assert.deepEqual(foo.log.items, [['open', null], ...(t.opener ? CLOSED_BY_REMOTE : CLOSED_BY_US)])
}

export async function numbers_are_used_again (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const open = (name) => {
      const watched = t.watch(mux, name)
      watched.channel.open()
      return watched
    }
    const close = async ({ channel }) => {
      assert.equal(await channel.fullyOpened(), true)
      channel.close()
    }
    const [, b, c] = [open('a'), open('b'), open('c')]
    await close(b)
    await close(c)
    const d = open('d') // 3: freed last
    const e = open('e') // 2
    await d.channel.fullyOpened()
    await e.channel.fullyOpened()
    open('f') // 4: no other is free
    await close(e)
    for (const n of range(50)) await close(open('g' + n)) // always 2
    const h = open('h')
    h.send('done')
    assert.deepEqual(await h.log.take(2), [['open', null], message('seen')])
    assert.deepEqual(protocols(mux).sort(), ['a', 'd', 'f', 'h'])
    return
  }

  const done = new Inbox()
  for (const name of ['a', 'b', 'c', 'd', 'e', 'f', 'h', ...range(50).map((n) => 'g' + n)]) {
    mux.pair({ protocol: name }, () => {
      const watched = t.watch(mux, name)
      watched.channel.open()
      if (name === 'h') done.push(watched)
    })
  }
  const h = await done.next()
  assert.deepEqual(await h.log.take(2), [['open', null], message('done')])
  const opens = entries(mux).filter((entry) => entry.startsWith('open'))
  assert.deepEqual(opens.filter((entry) => !/ g/.test(entry)), [
    'open 1 a', 'open 2 b', 'open 3 c', 'open 3 d', 'open 2 e', 'open 4 f', 'open 2 h'
  ])
  assert.deepEqual(opens.filter((entry) => / g/.test(entry)), range(50).map((n) => 'open 2 g' + n))
  h.send('seen')
}

export async function open_send_close_in_one_tick (t) {
  const mux = t.mux(await t.stream())
  // Both have opened before they read, as otherwise the original closes before it opens.
  const foo = t.watch(mux, 'foo')
  foo.channel.open()
  if (t.opener) {
    foo.send('hello')
    foo.channel.close()
    assert.deepEqual(foo.log.items, CLOSED_BY_US)
  } else {
    assert.deepEqual(await foo.log.take(4), [['open', null], message('hello'), ...CLOSED_BY_REMOTE])
  }
  await t.fence(mux)
  assert.deepEqual(protocols(mux), ['fence'])
}

export async function open_send_close_reaches_a_pair_callback (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const foo = t.watch(mux, 'foo')
    mux.cork()
    foo.channel.open()
    foo.send('hello')
    foo.channel.close()
    mux.uncork()
  } else {
    // The original closes the channel before it opens it, so that neither hook nor message
    // comes; the Python side delivers all of it.
    const foo = await t.meet(mux, 'foo')
    assert.deepEqual(await foo.log.take(2), CLOSED_BY_REMOTE)
  }
  await t.fence(mux)
}

export async function the_peer_closes_while_a_pair_callback_waits (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const foo = t.watch(mux, 'foo')
    foo.channel.open()
    foo.send('hello')
    foo.channel.close()
    assert.deepEqual(foo.log.items, CLOSED_BY_US)
    await t.fence(mux)
    const bar = await t.meet(mux, 'bar')
    assert.equal(await bar.channel.fullyOpened(), true)
    return
  }

  const offered = new Inbox()
  mux.pair({ protocol: 'foo' }, async () => {
    await t.fence(mux) // the close has come by then
    const foo = t.watch(mux, 'foo')
    foo.channel.open()
    offered.push(foo)
  })
  const foo = await offered.next()
  // The original has forgotten the close. A peer that does not repeat it, as the original does
  // not, leaves a channel here that is open for ever, and destroys the stream when it uses the
  // number again.
  assert.deepEqual(await foo.log.take(4), [['open', null], message('hello'), ...CLOSED_BY_REMOTE])
  const bar = await t.meet(mux, 'bar')
  assert.equal(await bar.channel.fullyOpened(), true)
}
