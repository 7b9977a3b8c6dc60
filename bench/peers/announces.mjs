// The client announces as fast as the stream takes it, in one topic; the listener counts.

import { Announces, FIRSTS, KEPT_EVERY, capability, isSame } from './content.mjs'
import { Meeting } from './meeting.mjs'
import { Protomux, Wakeup } from './originals.mjs'
import { Arrivals, fail } from './talk.mjs'

export async function client (talk) {
  const { warm, count, entries, burst } = talk.size
  const announces = new Announces(entries)
  const meeting = await Meeting.begin(talk)
  const wakeup = new Wakeup()
  let session = null
  const proven = new Promise((resolve) => {
    session = wakeup.session(capability(0), { onpeeradd: resolve })
  })
  const stream = await meeting.stream()
  wakeup.addStream(stream)
  const peer = await proven
  const mux = Protomux.from(stream)
  const writers = announces.whole(0)
  let drain = null
  peer.channel.ondrain = () => { drain?.() }
  const drained = () => new Promise((resolve) => { drain = resolve })

  async function announce (first, last) {
    for (let number = first; number < last; number++) {
      writers[0] = { key: FIRSTS[number % 61], length: number }
      session.announce(peer, writers)
      if (!mux.drained) await drained()
    }
  }

  async function announceCorked (first, last) {
    for (let number = first; number < last;) {
      const end = Math.min(number + burst, last)
      mux.cork()
      for (; number < end; number++) {
        writers[0] = { key: FIRSTS[number % 61], length: number }
        session.announce(peer, writers)
      }
      mux.uncork()
      if (!mux.drained) await drained()
    }
  }

  const send = talk.isCorked ? announceCorked : announce
  await talk.sync('ready')
  await send(0, warm)
  await talk.sync('warm')
  talk.begin()
  await send(warm, warm + count)
  await talk.sync('done')
  talk.end({ began: true })
  talk.finish(count * entries, announces.checksum(warm, warm + count))
}

class Listener extends Arrivals {
  isWarming = true
  kept = []
  #announces

  constructor (announces) {
    super()
    this.#announces = announces
  }

  onannounce (writers) {
    const number = this.count
    if (this.isWarming) this.verify(writers, number)
    else if (number % KEPT_EVERY === 0) this.kept.push(writers)
    this.total += writers[0].length + writers[writers.length - 1].length
    this.count = number + 1
    if (this.count === this.expected) this.finish()
  }

  verify (writers, number) {
    if (!isSame(writers, this.#announces.whole(number))) {
      fail(`the announce ${number} is not what was sent`)
    }
  }
}

export async function listener (talk) {
  const { warm, count, entries } = talk.size
  const heard = new Listener(new Announces(entries))
  const meeting = await Meeting.begin(talk)
  const wakeup = new Wakeup()
  wakeup.session(capability(0), { onannounce: (writers) => heard.onannounce(writers) })
  wakeup.addStream(await meeting.stream())
  heard.expect(warm)
  await talk.sync('ready')
  await heard.wait()
  heard.isWarming = false
  heard.expect(count)
  await talk.sync('warm')
  talk.begin()
  await heard.wait()
  await talk.sync('done')
  talk.end({ ended: heard.ended })
  heard.kept.forEach((writers, index) => heard.verify(writers, warm + index * KEPT_EVERY))
  talk.finish(heard.count * entries, heard.total)
}
