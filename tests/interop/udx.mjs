// The UDX of a case: sockets that both processes know of, streams between them, and what came by
// them. The twin of udx.py.

import { createHash } from 'node:crypto'

import UDX from 'udx-native'

import { deferred, Inbox } from './inbox.mjs'

const CHUNK = 65536
const BUFFER = 4 * 2 ** 20 // of a socket: what the kernel drops no path has lost

// One end of a stream: what it got, and how it went.
export class End {
  size = 0
  messages = new Inbox()
  #got = createHash('sha256')
  #waiting = []
  #drained = deferred()

  constructor (stream, remoteId) {
    this.stream = stream
    this.remoteId = remoteId
    const ended = deferred()
    const closed = deferred()
    let error = null
    stream.on('data', (data) => {
      this.size += data.byteLength
      this.#got.update(data)
      this.#waiting = this.#waiting.filter(([size, resolve]) => this.size < size || resolve())
    })
    stream.on('drain', () => this.#drained.resolve())
    stream.on('end', ended.resolve)
    stream.on('message', (data) => this.messages.push(data))
    stream.on('error', (err) => { error = err })
    stream.on('close', () => closed.resolve(error))
    this.ended = ended.promise
    this.closed = closed.promise // to the error that ended it, or null
  }

  // Resolves when so many bytes are there.
  async received (size) {
    if (this.size < size) await new Promise((resolve) => { this.#waiting.push([size, resolve]) })
  }

  // The digest of all that came.
  get digest () {
    return this.#got.copy().digest('hex')
  }

  // Write so many bytes, as many as there is room for at a time; the result is their digest.
  async pour (size) {
    const sent = createHash('sha256')
    for (let begin = 0; begin < size; begin += CHUNK) {
      const chunk = createHash('shake256', { outputLength: Math.min(CHUNK, size - begin) })
        .update(`${this.remoteId} ${begin}`)
        .digest()
      sent.update(chunk)
      if (!this.stream.write(chunk)) {
        this.#drained = deferred()
        await Promise.race([this.#drained.promise, this.closed])
      }
    }
    return sent.digest('hex')
  }
}

export class Udx {
  #t
  #host
  #udx = new UDX()

  constructor (t) {
    this.#t = t
    this.#host = t.options.host ?? '127.0.0.1'
  }

  // A socket of ours, new or as given, and the port where the other side's is reached from it.
  async link (socket = null) {
    if (socket === null) {
      socket = this.#udx.createSocket()
      socket.bind(0, this.#host)
      socket.setRecvBufferSize(BUFFER)
    }
    const port = await this.#t.sync('udx port', socket.address().port)
    return { socket, host: this.#host, port }
  }

  // Streams between both sides, connected. `ids` are ours.
  streams (link, ids) {
    return this.connect(link, ids, (stream, remoteId) => new End(stream, remoteId))
  }

  // The same, for who has something else to make of a stream before it is connected.
  async connect (link, ids, make, options) {
    const streams = ids.map((id) => this.#udx.createStream(id, options))
    const remoteIds = await this.#t.sync('udx ids', ids)
    const made = streams.map((stream, n) => make(stream, remoteIds[n]))
    for (const [n, stream] of streams.entries()) {
      stream.connect(link.socket, remoteIds[n], link.port, link.host)
    }
    await this.#t.sync('udx connected')
    return made
  }
}
