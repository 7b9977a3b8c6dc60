// The client asks, the listener answers with an announce, one question at a time.

import { FIRSTS, KEPT_EVERY, capability, isSame } from './content.mjs'
import { Meeting } from './meeting.mjs'
import { Wakeup } from './originals.mjs'
import { Arrivals, fail, now } from './talk.mjs'

class Client extends Arrivals {
  isWarming = true
  times = []
  kept = []
  #asked = 0

  ask (peer, session) {
    this.#asked = now()
    session.lookup(peer)
  }

  onannounce (writers, peer, session) {
    this.times.push(now() - this.#asked)
    const number = this.count
    if (this.isWarming) verify(writers, number)
    else if (number % KEPT_EVERY === 0) this.kept.push(writers)
    this.total += writers[0].length
    this.count = number + 1
    if (this.count === this.expected) this.finish()
    else this.ask(peer, session)
  }
}

function verify (writers, number) {
  if (!isSame(writers, [{ key: FIRSTS[number % 61], length: number }])) {
    fail(`the answer ${number} is not what was sent`)
  }
}

export async function client (talk) {
  const { warm, count } = talk.size
  const asker = new Client()
  const meeting = await Meeting.begin(talk)
  const wakeup = new Wakeup()
  let session = null
  const proven = new Promise((resolve) => {
    session = wakeup.session(capability(0), {
      onpeeradd: resolve,
      onannounce: (writers, peer, session) => asker.onannounce(writers, peer, session)
    })
  })
  wakeup.addStream(await meeting.stream())
  const peer = await proven
  asker.expect(warm)
  await talk.sync('ready')
  asker.ask(peer, session)
  await asker.wait()
  asker.isWarming = false
  asker.times.length = 0
  asker.expect(count)
  await talk.sync('warm')
  talk.begin()
  asker.ask(peer, session)
  await asker.wait()
  talk.end({ began: true, ended: asker.ended })
  await talk.sync('done')
  asker.kept.forEach((writers, index) => verify(writers, index * KEPT_EVERY))
  const times = asker.times.sort((a, b) => a - b)
  const figures = {}
  for (const part of [50, 99]) {
    const index = Math.min(times.length - 1, Math.floor(times.length * part / 100))
    figures[`rtt p${part}`] = times[index] / 1000
  }
  talk.finish(asker.count, asker.total, figures)
}

class Listener extends Arrivals {
  onlookup (peer, session) {
    const number = this.count
    session.announce(peer, [{ key: FIRSTS[number % 61], length: number }])
    this.total += number
    this.count = number + 1
    if (this.count === this.expected) this.finish()
  }
}

export async function listener (talk) {
  const { warm, count } = talk.size
  const answerer = new Listener()
  const meeting = await Meeting.begin(talk)
  const wakeup = new Wakeup()
  wakeup.session(capability(0), {
    onlookup: (_lookup, peer, session) => answerer.onlookup(peer, session)
  })
  wakeup.addStream(await meeting.stream())
  answerer.expect(warm)
  await talk.sync('ready')
  await answerer.wait()
  answerer.expect(count)
  await talk.sync('warm')
  talk.begin()
  await answerer.wait()
  await talk.sync('done')
  talk.end()
  talk.finish(answerer.count, answerer.total)
}
