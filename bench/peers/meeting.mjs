// The streams between the two sides, over loopback TCP. See meeting.py.

import { once } from 'node:events'
import net from 'node:net'

import { SecretStream } from './originals.mjs'
import { fail, say } from './talk.mjs'

export const HOST = '127.0.0.1'
const AT_ONCE = 16

export function secure (isInitiator, socket, keyPair) {
  const stream = new SecretStream(isInitiator, socket, { keyPair })
  stream.on('error', (error) => fail(`a stream ended: ${error.message}`))
  return stream
}

export async function connect (port, keyPair) {
  const stream = secure(true, net.connect({ port, host: HOST, noDelay: true }), keyPair)
  if (!(await stream.opened)) fail('a stream did not open')
  return stream
}

export async function listen (onsocket) {
  const server = net.createServer({ noDelay: true }, onsocket)
  server.listen({ port: 0, host: HOST, backlog: 511 })
  await once(server, 'listening')
  say({ port: server.address().port })
}

export class Meeting {
  #port
  #keyPair = SecretStream.keyPair()
  #accepted = []
  #wanted = null

  constructor (port) {
    this.#port = port
  }

  static async begin (talk) {
    const meeting = new Meeting(talk.port)
    if (!talk.isClient) await listen((socket) => meeting.#accept(socket))
    return meeting
  }

  // So many new streams, open on both sides.
  async streams (count) {
    if (this.#port === null) {
      if (this.#accepted.length < count) {
        await new Promise((resolve) => { this.#wanted = { count, resolve } })
      }
      return this.#accepted.splice(0, count)
    }
    const streams = []
    let left = count
    const worker = async () => {
      while (left-- > 0) streams.push(await connect(this.#port, this.#keyPair))
    }
    await Promise.all(Array.from({ length: AT_ONCE }, worker))
    return streams
  }

  async stream () {
    return (await this.streams(1))[0]
  }

  async #accept (socket) {
    const stream = secure(false, socket, this.#keyPair)
    if (!(await stream.opened)) fail('a stream did not open')
    this.#accepted.push(stream)
    if (this.#wanted !== null && this.#accepted.length >= this.#wanted.count) {
      this.#wanted.resolve()
      this.#wanted = null
    }
  }
}
