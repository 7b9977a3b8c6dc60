// The client connects, some at a time; each stream is open on both sides, then closed.
//
// The listener closes a stream when it is open there, which tells the client that it was.

import { once } from 'node:events'

import { connect, listen, secure } from './meeting.mjs'
import { SecretStream } from './originals.mjs'
import { Arrivals } from './talk.mjs'

class Handshakes extends Arrivals {
  note (stream) {
    this.total += stream.handshakeHash.readUInt32BE(0)
    if (++this.count === this.expected) this.finish()
  }
}

export async function client (talk) {
  const { warm, count, at_once: atOnce } = talk.size
  const keyPair = SecretStream.keyPair()
  const opened = new Handshakes()

  async function connectAll (count) {
    opened.expect(count)
    let left = count
    const worker = async () => {
      while (left-- > 0) {
        const stream = await connect(talk.port, keyPair)
        stream.on('end', () => stream.end()).resume()
        await once(stream, 'close')
        opened.note(stream)
      }
    }
    await Promise.all(Array.from({ length: atOnce }, worker))
  }

  await talk.sync('ready')
  await connectAll(warm)
  await talk.sync('warm')
  talk.begin()
  await connectAll(count)
  await talk.sync('done')
  talk.end({ began: true, ended: opened.ended })
  talk.finish(opened.count, opened.total)
}

export async function listener (talk) {
  const opened = new Handshakes()
  const keyPair = SecretStream.keyPair()
  await listen(async (socket) => {
    const stream = secure(false, socket, keyPair)
    if (!(await stream.opened)) return
    opened.note(stream)
    stream.resume()
    stream.end()
  })
  opened.expect(talk.size.warm)
  await talk.sync('ready')
  await opened.wait()
  opened.expect(talk.size.count) // before the barrier: the client begins right behind it
  await talk.sync('warm')
  talk.begin()
  await opened.wait()
  await talk.sync('done')
  talk.end()
  talk.finish(opened.count, opened.total)
}
