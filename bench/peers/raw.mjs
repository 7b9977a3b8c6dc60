// The client sends raw messages on one channel as fast as the stream takes them.

import { KEPT_EVERY, pool } from './content.mjs'
import { Meeting } from './meeting.mjs'
import { Protomux, c } from './originals.mjs'
import { Arrivals, fail } from './talk.mjs'

const PROTOCOL = 'bench/raw'

// What a message counts: its bytes in a work of large ones.
const units = ({ bytes }) => bytes > 1024 ? bytes : 1

export async function client (talk) {
  const { warm, count, bytes, burst } = talk.size
  const messages = pool(bytes)
  const meeting = await Meeting.begin(talk)
  const mux = new Protomux(await meeting.stream())
  let drain = null
  const drained = () => new Promise((resolve) => { drain = resolve })
  const channel = mux.createChannel({
    protocol: PROTOCOL,
    messages: [{ encoding: c.raw }],
    ondrain: () => { drain?.() }
  })
  channel.open()
  await channel.fullyOpened()
  const [message] = channel.messages

  async function send (first, last) {
    for (let number = first; number < last; number++) {
      if (!message.send(messages[number % 61])) await drained()
    }
  }

  async function sendCorked (first, last) {
    for (let number = first; number < last;) {
      const end = Math.min(number + burst, last)
      mux.cork()
      for (; number < end; number++) message.send(messages[number % 61])
      mux.uncork()
      if (!mux.drained) await drained()
    }
  }

  const run = talk.isCorked ? sendCorked : send
  await talk.sync('ready')
  await run(0, warm)
  await talk.sync('warm')
  talk.begin()
  await run(warm, warm + count)
  await talk.sync('done')
  talk.end({ began: true })
  let check = 0
  for (let number = warm; number < warm + count; number++) check += bytes + messages[number % 61][0]
  talk.finish(count * units(talk.size), check)
}

class Listener extends Arrivals {
  isWarming = true
  kept = []
  #messages

  constructor (messages) {
    super()
    this.#messages = messages
  }

  onmessage (message) {
    const number = this.count
    if (this.isWarming) this.verify(message, number)
    else if (number % KEPT_EVERY === 0) this.kept.push(message)
    this.total += message.byteLength + message[0]
    this.count = number + 1
    if (this.count === this.expected) this.finish()
  }

  verify (message, number) {
    if (!message.equals(this.#messages[number % 61])) {
      fail(`the message ${number} is not what was sent`)
    }
  }
}

export async function listener (talk) {
  const { warm, count, bytes } = talk.size
  const heard = new Listener(pool(bytes))
  const meeting = await Meeting.begin(talk)
  const mux = new Protomux(await meeting.stream())
  const channel = mux.createChannel({
    protocol: PROTOCOL,
    messages: [{ encoding: c.raw, onmessage: (message) => heard.onmessage(message) }]
  })
  channel.open()
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
  heard.kept.forEach((message, index) => heard.verify(message, warm + index * KEPT_EVERY))
  talk.finish(heard.count * units(talk.size), heard.total)
}
