// The Node twins of test_mux_flow.py: batches, back-pressure, what a mux tells of itself, failures.

import assert from 'node:assert/strict'

import b4a from 'b4a'
import c from 'compact-encoding'
import Protomux from 'protomux'

import { CLOSED_BY_REMOTE, Inbox, deferred, message, protocols, range } from '../twin.mjs'

const BATCH = 8 * 2 ** 20 // where both sides cut a batch

// --- batches and back-pressure

export async function corks (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const foo = await t.meet(mux, 'foo')
    await foo.log.next()
    mux.cork()
    const other = t.watch(mux, 'other')
    const multi = t.watch(mux, 'multi', { types: [c.int, c.string] })
    other.channel.open()
    multi.channel.open()
    await t.sync('opened') // a cork spans ticks
    multi.channel.cork() // and counts
    for (const n of [1, 2, -3]) multi.send(n)
    foo.send('between')
    multi.send('a string', 1)
    multi.channel.uncork()
    await t.sync('still corked')
    mux.uncork()
    assert.deepEqual(await other.log.take(2), CLOSED_BY_REMOTE)
    assert.deepEqual(await multi.log.next(), ['open', null])
    return
  }

  const foo = await t.meet(mux, 'foo')
  await foo.log.next()
  const multi = new Promise((resolve) => {
    mux.pair({ protocol: 'multi' }, () => {
      const watched = t.watch(mux, 'multi', { types: [c.int, c.string] })
      watched.channel.open()
      resolve(watched)
    })
  })
  mux.frames.items.length = 0
  await t.sync('opened')
  await t.sync('still corked')
  assert.deepEqual(await (await multi).log.take(5), [
    ['open', null], message(1), message(2), message(-3), message('a string', 1)
  ])
  assert.deepEqual(await foo.log.next(), message('between'))
  const [frame] = await mux.frames.take(1)
  assert.deepEqual(frame.entries, [
    'open 2 other', 'open 3 multi',
    '3:0 02', '3:0 04', '3:0 05', '1:0 076265747765656e', '3:1 086120737472696e67'
  ])
  assert.deepEqual(mux.frames.items, [])
}

export async function a_mega_cork_is_cut (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo', { types: [c.buffer] })
  await foo.log.next()

  const mebibyte = b4a.alloc(1024 * 1024, 7)
  if (t.opener) {
    mux.cork()
    for (let i = 0; i < 32; i++) foo.send(mebibyte)
    mux.uncork()
    await t.sync('received')
    return
  }
  mux.frames.items.length = 0
  for (let i = 0; i < 32; i++) {
    assert.ok(b4a.equals((await foo.log.next())[2], mebibyte))
  }
  const sizes = (await mux.frames.take(4)).map((frame) => frame.size)
  assert.ok(sizes.every((size) => size > BATCH && size < BATCH + 100), String(sizes))
  assert.deepEqual(mux.frames.items, [])
  await t.sync('received')
}

export async function a_message_near_the_size_of_a_batch (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo', { types: [c.raw] })
  await foo.log.next()

  // Both sides cut a batch where its frame has 8 MiB or more, before the next message.
  for (const [size, frames] of [[BATCH - 13, [3]], [BATCH - 12, [2, 1]], [BATCH, [2, 1]]]) {
    const texts = [b4a.from('a'), b4a.alloc(size, 7), b4a.from('z')]
    if (t.opener) {
      mux.cork()
      for (const text of texts) foo.send(text)
      mux.uncork()
    } else {
      mux.frames.items.length = 0
      for (const text of texts) assert.ok(b4a.equals((await foo.log.next())[2], text))
      assert.deepEqual(mux.frames.items.map((frame) => frame.entries.length), frames)
    }
    await t.sync('received')
  }
}

export async function messages_of_one_tick_leave_as_one_batch (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo', { types: [c.uint] })
  const bar = await t.meet(mux, 'bar', { types: [c.uint] })
  await foo.log.next()
  await bar.log.next()
  await t.fence(mux)

  mux.frames.items.length = 0
  await t.sync('counting')
  const frame = await mux.frames.next()
  assert.equal(frame.batch, true)
  assert.deepEqual(frame.entries, [
    ...range(5).flatMap((n) => [`1:0 0${n}`, `2:0 0${n}`]), 'open 4 baz', 'close 2'
  ])
  assert.deepEqual(await bar.log.take(7), [...range(5).map((n) => message(n)), ...CLOSED_BY_REMOTE])
  assert.deepEqual(foo.log.items, range(5).map((n) => message(n)))
  // A message alone in its tick is no batch.
  assert.deepEqual(await mux.frames.next(), { size: 3, batch: false, entries: ['1:0 63'] })
  assert.deepEqual(mux.frames.items, [])
}

export async function without_batches_a_handler_may_await_an_answer (t) {
  const mux = t.mux(await t.stream())
  const answers = { 'one?': deferred(), 'two?': deferred() }
  const foo = await t.meet(mux, 'foo', {
    messages: [
      {
        encoding: c.string,
        onmessage: async (text) => {
          foo.send(text + '?', 1)
          foo.send(`${text}: ${await answers[text + '?'].promise}`, 2)
        }
      },
      { encoding: c.string, onmessage: (text) => answers[text.slice(-4)].resolve(text) },
      { encoding: c.string }
    ]
  })
  assert.equal(await answers['one?'].promise, 'answer to one?')
  assert.equal(await answers['two?'].promise, 'answer to two?')
  assert.equal(foo.channel.opened, true)
}

export async function a_batch_is_answered_with_a_batch (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const foo = await t.meet(mux, 'foo', { types: [c.uint] })
    await foo.log.next()
    mux.frames.items.length = 0
    mux.cork()
    for (const n of range(5)) foo.send(n)
    mux.uncork()
    assert.deepEqual(await foo.log.take(5), range(5).map((n) => message(n * 2)))
    assert.deepEqual((await mux.frames.next()).entries, range(5).map((n) => `1:0 0${n * 2}`))
    assert.deepEqual(mux.frames.items, [])
  } else {
    const foo = await t.meet(mux, 'foo', {
      messages: [{ encoding: c.uint, onmessage: (n) => foo.send(n * 2) }]
    })
  }
}

export async function skipped_message_types (t) {
  const mux = t.mux(await t.stream())

  if (t.opener) {
    const foo = await t.meet(mux, 'foo', { types: [c.int, c.string, c.string, c.string] })
    foo.send(42)
    foo.send('skipped', 1)
    foo.send('a string with 42', 2)
    foo.send('unknown', 3)
    assert.deepEqual(await foo.log.take(2), [['open', null], message('back', 2)])
  } else {
    const foo = await t.meet(mux, 'foo', { types: [c.int, null, c.string] })
    const known = [message(42), message('a string with 42', 2)]
    assert.deepEqual(await foo.log.take(3), [['open', null], ...known])
    foo.send('back', 2)
  }
  await t.fence(mux)
}

export async function drain (t) {
  const mux = t.mux(await t.stream())
  const drained = new Inbox()
  const foo = await t.meet(mux, 'foo', { ondrain: (channel) => drained.push(channel) })
  await foo.log.next()

  if (t.opener) {
    assert.equal(mux.drained, true)
    assert.equal(foo.channel.drained, true)
    let sent = 0
    do sent++
    while (foo.send('hello world'))
    assert.equal(mux.drained, false)
    assert.equal(foo.channel.drained, false)
    assert.ok(await drained.next() === foo.channel)
    assert.equal(mux.drained, true)
    assert.equal(foo.channel.drained, true)
    await t.sync('sent', sent)
  } else {
    const sent = await t.hear('sent')
    assert.deepEqual(await foo.log.take(sent), range(sent).map(() => message('hello world')))
    t.tell('sent')
  }
}

export async function reading_pauses_while_much_is_held (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const chunk = 256 * 1024
  const count = 128 // 32 MiB: far more than the kernel buffers

  if (t.opener) {
    const drained = new Inbox()
    const foo = t.watch(mux, 'foo', { types: [c.buffer], ondrain: () => drained.push(null) })
    foo.channel.open()
    for (const n of range(count)) foo.send(b4a.alloc(chunk, n))
    await t.sync('paused')
    assert.equal(mux.drained, false)
    assert.deepEqual(drained.items, [])
    t.tell('open now')
    assert.deepEqual(await foo.log.next(), ['open', null])
    await drained.next()
    await t.hear('received')
    return
  }

  const events = new Inbox()
  const { pause, resume } = stream
  stream.pause = () => { events.push('pause'); return pause.call(stream) }
  stream.resume = () => { events.push('resume'); return resume.call(stream) }
  const gate = deferred()
  mux.pair({ protocol: 'foo' }, () => gate.promise)

  assert.equal(await events.next(), 'pause')
  await t.sync('paused')
  await t.hear('open now')
  assert.equal(stream.constructor.isPaused(stream), true)
  const held = mux.frames.items.reduce((sum, frame) => sum + frame.size, 0)
  assert.ok(held < 2 * BATCH, `${held} bytes held: more than a batch`)

  let received = 0
  const foo = t.watch(mux, 'foo', {
    messages: [{
      encoding: c.buffer,
      onmessage: (data) => {
        assert.deepEqual([data.byteLength, data[0]], [chunk, received++ % 256])
        if (received === count) events.push('all')
      }
    }]
  })
  foo.channel.open()
  gate.resolve()
  assert.deepEqual(await events.take(2), ['resume', 'all'])
  t.tell('received')
}

// --- what a mux tells of itself

export async function one_mux_a_stream (t) {
  const stream = await t.stream()
  const mux = Protomux.from(stream)
  assert.ok(Protomux.from(stream) === mux)
  assert.ok(Protomux.from(mux) === mux)

  const foo = t.watch(mux, 'foo')
  const bar = t.watch(Protomux.from(stream), 'bar')
  for (const [name, { channel, send }] of Object.entries({ foo, bar })) {
    channel.open()
    send('hello ' + name)
  }
  assert.deepEqual(await foo.log.take(2), [['open', null], message('hello foo')])
  assert.deepEqual(await bar.log.take(2), [['open', null], message('hello bar')])
}

export async function is_idle (t) {
  const mux = t.mux(await t.stream())
  assert.equal(mux.isIdle(), true)
  const foo = await t.meet(mux, 'foo')
  assert.equal(mux.isIdle(), false)
  await foo.log.next()

  if (t.opener) {
    assert.deepEqual(await foo.log.take(3), [message('hello world'), ...CLOSED_BY_REMOTE])
  } else {
    foo.send('hello world')
    foo.channel.close()
  }
  assert.equal(mux.isIdle(), true)
}

export async function iteration (t) {
  const mux = t.mux(await t.stream())
  assert.deepEqual(protocols(mux), [])
  const [a, b, c] = [await t.meet(mux, 'a'), await t.meet(mux, 'b'), await t.meet(mux, 'c')]
  for (const { log } of [a, b, c]) await log.next()

  t.watch(mux, 'never opened')
  assert.deepEqual(protocols(mux), ['a', 'b', 'c'])
  await t.sync('listed')
  if (t.opener) b.channel.close()
  else assert.deepEqual(await b.log.take(2), CLOSED_BY_REMOTE)
  assert.deepEqual(protocols(mux), ['a', 'c'])
}

// --- failures

const HOOKS = ['open', 'message', 'pair'].flatMap((hook) => [[hook, 'sync'], [hook, 'async']])

export async function a_hook_that_fails_destroys_the_stream (t) {
  for (const [hook, when] of HOOKS) {
    const stream = await t.stream()
    const mux = t.mux(stream)
    const bystander = await t.meet(mux, 'bystander')
    await bystander.log.next()

    if (t.opener) {
      await t.hear('ready')
      const foo = t.watch(mux, 'foo')
      foo.channel.open()
      foo.send('hello')
      await t.gone(stream)
      assert.deepEqual(foo.log.items.slice(-2), CLOSED_BY_REMOTE)
      assert.equal(foo.channel.destroyed, true)
    } else {
      const fails = failing(`${hook} ${when} on purpose`, when === 'async')
      const hooks = {
        open: { onopen: fails },
        message: { messages: [{ encoding: c.string, onmessage: fails }] }
      }
      const create = () => t.watch(mux, 'foo', hooks[hook]).channel.open()
      mux.pair({ protocol: 'foo' }, hook === 'pair' ? fails : create)
      t.tell('ready')
      assert.equal((await t.gone(stream)).message, `${hook} ${when} on purpose`)
    }
    assert.deepEqual(bystander.log.items, CLOSED_BY_REMOTE)
    assert.equal(mux.createChannel({ protocol: 'late' }), null)
  }
}

function failing (message, isAsync) {
  const fails = () => { throw new Error(message) }
  return isAsync ? () => Promise.resolve().then(fails) : fails
}

export async function a_hook_that_fails_after_the_close_does_not (t) {
  const mux = t.mux(await t.stream())
  const foo = t.opener ? await t.meet(mux, 'foo') : null

  if (t.opener) {
    foo.send('hello')
    await t.hear('hook runs')
    foo.channel.close()
    t.tell('closed')
  } else {
    const warnings = new Inbox()
    mux.stream.on('warning', (error) => warnings.push(String(error)))
    const closed = deferred()
    const destroyed = deferred()
    await t.meet(mux, 'foo', {
      messages: [{
        encoding: c.string,
        onmessage: async () => {
          t.tell('hook runs')
          await closed.promise
          throw new Error('on message')
        }
      }],
      onclose: async () => {
        closed.resolve()
        await t.hear('closed')
        throw new Error('on close')
      },
      ondestroy: destroyed.resolve
    })
    await destroyed.promise // when the last hook has ended
    assert.deepEqual((await warnings.take(2)).sort(), ['Error: on close', 'Error: on message'])
  }
  await t.fence(mux) // the stream lives
}

export async function frames_that_are_ignored (t) {
  const mux = t.mux(await t.stream())
  const foo = await t.meet(mux, 'foo')
  await foo.log.next()

  if (t.opener) {
    for (const frame of [
      [], // empty
      [0, 9, 1], // a control type that nobody knows
      [0, 3, 0], [0, 3, 7], // close of the control channel, and of a channel that never was
      [7, 0, 1, 65], // a message for a channel that never was
      [0, 0, 1], // a batch of nothing
      [0, 0, 7, 3, 0, 1, 65, 0, 1, 3, 0, 1, 66] // a batch: for nobody, then "B" for channel 1
    ]) mux.stream.write(b4a.from(frame))
  } else assert.deepEqual(await foo.log.next(), message('B'))
  await t.fence(mux)
  assert.deepEqual(foo.log.items, [])
}

const VIOLATIONS = {
  'stray reject': [0, 2, 9],
  'open of the control channel': [0, 1, 0, 3, 98, 97, 114, 0],
  'open past the next number': [0, 1, 9, 3, 98, 97, 114, 0],
  'open of a number in use': [0, 1, 1, 3, 98, 97, 114, 0],
  'open cut short': [0, 1, 2, 3, 98],
  'message cut short': [1, 0, 9, 65],
  'frame cut short': [0xfd, 1],
  'uint beyond 2^53-1': [1, 1, 255, 0, 0, 0, 0, 0, 0, 32, 0]
}

export async function a_violation_destroys_the_stream (t) {
  for (const [kind, frame] of Object.entries(VIOLATIONS)) {
    const stream = await t.stream()
    const mux = t.mux(stream)
    const foo = await t.meet(mux, 'foo', { types: [c.string, c.uint] })
    await foo.log.next()

    if (t.opener) stream.write(b4a.from(frame))
    const error = await t.gone(stream)
    if (!t.opener) assert.ok(error, kind)
    assert.deepEqual(foo.log.items, CLOSED_BY_REMOTE, kind)
  }
}

export async function a_stream_is_lost_in_the_middle (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const foo = await t.meet(mux, 'foo')
  await foo.log.next()
  const waiting = t.opener ? t.watch(mux, 'waiting') : null
  if (t.opener) {
    waiting.channel.open()
    assert.equal(await t.hear('offered'), 'waiting')
    foo.send('last words')
    await t.hear('got it')
    if (t.options.how === 'destroyed') mux.destroy(new Error('on purpose'))
    else stream.rawStream.destroy()
  } else {
    const paired = deferred()
    mux.pair({ protocol: 'waiting' }, async () => {
      t.tell('offered', 'waiting')
      await t.gone(stream)
      paired.resolve(mux.createChannel({ protocol: 'waiting' }))
    })
    assert.deepEqual(await foo.log.next(), message('last words'))
    t.tell('got it')
    assert.equal(await paired.promise, null)
  }
  const fully = waiting?.channel.fullyOpened()
  await t.gone(stream)
  await foo.channel.fullyClosed()
  assert.deepEqual(foo.log.items, CLOSED_BY_REMOTE)
  if (t.opener) {
    assert.equal(await fully, false)
    assert.deepEqual(waiting.log.items, CLOSED_BY_REMOTE)
  }
  assert.equal(foo.send('too late'), false)
  assert.equal(mux.createChannel({ protocol: 'late' }), null)
  assert.deepEqual(protocols(mux), [])
}

export async function the_stream_closes_in_order (t) {
  const stream = await t.stream()
  const mux = t.mux(stream)
  const foo = await t.meet(mux, 'foo', { types: [c.buffer] })
  await foo.log.next()

  // What was sent before the end arrives, in both directions.
  const half = b4a.alloc(2 ** 19, 1)
  if (t.opener) {
    for (let i = 0; i < 16; i++) foo.send(half)
    stream.end()
  } else {
    for (let i = 0; i < 16; i++) assert.ok(b4a.equals((await foo.log.next())[2], half))
  }
  assert.equal(await t.gone(stream), null)
  assert.deepEqual(foo.log.items, CLOSED_BY_REMOTE)
}
