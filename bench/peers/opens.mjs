// Both sides know the same topics; then they meet on streams, and every peer is to be proven.

import { once } from 'node:events'

import { capability } from './content.mjs'
import { Meeting } from './meeting.mjs'
import { Wakeup } from './originals.mjs'
import { Arrivals, fail } from './talk.mjs'

class Side extends Arrivals {
  wakeup = new Wakeup()

  constructor (first, count) {
    super()
    const onpeeradd = () => {
      if (++this.count === this.expected) this.finish()
    }
    this.sessions = Array.from({ length: count }, (_, number) => (
      this.wakeup.session(capability(first + number), { onpeeradd })
    ))
  }

  meet (streams) {
    for (const stream of streams) this.wakeup.addStream(stream)
  }

  check (streams) {
    let sum = 0
    for (const { topic, peers } of this.sessions) {
      const proven = new Set(peers.filter((peer) => !peer.pending).map((peer) => peer.stream))
      if (peers.length !== streams.length || !streams.every((stream) => proven.has(stream))) {
        fail(`expected ${streams.length} proven peers of a topic, got ${proven.size}`)
      }
      sum += topic.id.readUInt32BE(0)
    }
    return streams.length * sum
  }
}

async function meet (talk, side, streams, measured) {
  side.expect(side.sessions.length * streams.length)
  await talk.sync('known')
  if (measured) talk.begin()
  side.meet(streams)
  await side.wait()
  await talk.sync('proven')
  if (measured) talk.end({ began: true, ended: side.ended })
  const check = side.check(streams)
  await talk.sync('checked')
  side.wakeup.destroy()
  // The other side may have been first, and a stream may be closed already.
  const closed = streams.map((stream) => stream.destroyed || once(stream, 'close'))
  for (const stream of streams) stream.end()
  await Promise.all(closed)
  return check
}

export async function onOne (talk) {
  const { topics, warm, times } = talk.size
  const meeting = await Meeting.begin(talk)
  const part = Math.min(topics, warm)
  for (let left = Math.max(1, Math.floor(warm / topics)); left > 0; left--) {
    await meet(talk, new Side(0, part), [await meeting.stream()], false)
  }
  let check = 0
  for (let number = 1; number < 1 + times; number++) {
    const side = new Side(number * topics, topics)
    check += await meet(talk, side, [await meeting.stream()], true)
  }
  talk.finish(topics * times, check)
}

export async function onMany (talk) {
  const { streams, warm, topics } = talk.size
  const meeting = await Meeting.begin(talk)
  await meet(talk, new Side(0, topics), await meeting.streams(warm), false)
  const side = new Side(topics, topics)
  const check = await meet(talk, side, await meeting.streams(streams), true)
  talk.finish(streams * topics, check)
}
