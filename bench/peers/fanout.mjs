// The client tells news to all of its streams, again and again; each must get all of them.
//
// News come one by one: there is a turn of the event loop between one broadcast and the next.

import { setImmediate } from 'node:timers/promises'

import { capability, isSame, length, logKey } from './content.mjs'
import { Meeting } from './meeting.mjs'
import { Wakeup } from './originals.mjs'
import { Arrivals, fail } from './talk.mjs'

const keysOf = (size) => Array.from({ length: size.keys }, (_, number) => logKey(number))

function newsOf (keys, number) {
  return keys.map((key, index) => ({ key, length: length(number * keys.length + index) }))
}

class Meet extends Arrivals {
  onpeeradd () {
    if (++this.count === this.expected) this.finish()
  }
}

export async function client (talk) {
  const { streams, warm, count } = talk.size
  const keys = keysOf(talk.size)
  const meeting = await Meeting.begin(talk)
  const wakeup = new Wakeup()
  const met = new Meet()
  met.expect(streams)
  const session = wakeup.session(capability(0), { onpeeradd: () => met.onpeeradd() })
  for (const stream of await meeting.streams(streams)) wakeup.addStream(stream)
  await met.wait()
  const { peers } = session

  const drained = (channel) => new Promise((resolve) => { channel.ondrain = resolve })

  // The originals have no broadcast of announces.
  async function broadcast (news) {
    for (const writers of news) {
      for (const peer of peers) session.announce(peer, writers)
      for (const { channel } of peers) if (!channel.drained) await drained(channel)
      await setImmediate()
    }
  }

  const news = Array.from({ length: warm + count }, (_, number) => newsOf(keys, number))
  await talk.sync('ready')
  await broadcast(news.slice(0, warm))
  await talk.sync('warm')
  talk.begin()
  await broadcast(news.slice(warm))
  await talk.sync('done')
  talk.end({ began: true })
  let check = 0
  for (const one of news.slice(warm)) check += one[0].length + one.at(-1).length
  talk.finish(count * streams, check * streams)
}

class Listener extends Arrivals {
  isWarming = true
  kept = []
  #keys

  constructor (keys) {
    super()
    this.#keys = keys
  }

  onannounce (writers, peer) {
    const number = peer.clock++
    if (this.isWarming) this.verify(writers, number)
    else if (this.count % 61 === 0) this.kept.push([number, writers])
    this.total += writers[0].length + writers[writers.length - 1].length
    if (++this.count === this.expected) this.finish()
  }

  verify (writers, number) {
    if (!isSame(writers, newsOf(this.#keys, number))) {
      fail(`the news ${number} of a stream are not what was sent`)
    }
  }
}

export async function listener (talk) {
  const { streams, warm, count } = talk.size
  const heard = new Listener(keysOf(talk.size))
  const meeting = await Meeting.begin(talk)
  const wakeup = new Wakeup()
  const session = wakeup.session(capability(0), {
    onannounce: (writers, peer) => heard.onannounce(writers, peer)
  })
  for (const stream of await meeting.streams(streams)) wakeup.addStream(stream)
  heard.expect(warm * streams)
  await talk.sync('ready')
  await heard.wait()
  heard.isWarming = false
  heard.expect(count * streams)
  await talk.sync('warm')
  talk.begin()
  await heard.wait()
  await talk.sync('done')
  talk.end({ ended: heard.ended })
  for (const [number, writers] of heard.kept) heard.verify(writers, number)
  if (session.peers.some((peer) => peer.clock !== warm + count)) {
    fail('expected every stream to get all news')
  }
  talk.finish(heard.count, heard.total)
}
