// What a case holds: its side of the connection, its talk with the harness, and what it logs.

import assert from 'node:assert/strict'
import net from 'node:net'

import SecretStream from '@hyperswarm/secret-stream'
import c from 'compact-encoding'
import Protomux from 'protomux'

import { deferred, Inbox } from './inbox.mjs'
import { Udx } from './udx.mjs'
import { describe } from './wire.mjs'

export { deferred, Inbox }

export const CLOSED_BY_US = [['close', false], ['destroy']]
export const CLOSED_BY_REMOTE = [['close', true], ['destroy']]

export const message = (value, type = 0) => ['message', type, value]
export const range = (count) => Array.from({ length: count }, (_, i) => i)

export class Twin {
  allowHalfOpen = false // of the sockets; Node's own default
  #say
  #syncs = new Map()
  #ports = new Inbox()
  #port = null
  #waits = new Set()
  #errors = []
  #entries = []
  #accepted = null
  #gone = new Map()
  #udx = null
  #link = null

  constructor (options, say) {
    this.options = options
    this.initiator = options.initiator
    this.opener = options.opener
    this.#say = say
  }

  // What goes to the harness with the verdict.
  get seen () {
    return {
      waits: [...this.#waits],
      errors: this.#errors.map(String),
      frames: this.#entries.slice(-20)
    }
  }

  // --- with the harness

  heard (line) {
    if ('port' in line) this.#ports.push(line.port)
    else this.#queue(line.sync).push(line.data ?? null)
  }

  tell (name, data = null) {
    this.#say({ sync: name, data })
  }

  async hear (name) {
    this.#waits.add(name)
    const data = await this.#queue(name).next()
    this.#waits.delete(name)
    return data
  }

  // A barrier that both sides pass together; the result is the other side's `data`.
  sync (name, data = null) {
    this.tell(name, data)
    return this.hear(name)
  }

  #queue (name) {
    if (!this.#syncs.has(name)) this.#syncs.set(name, new Inbox())
    return this.#syncs.get(name)
  }

  // --- TCP and secret streams

  // The next TCP connection between the two processes.
  async tcp () {
    if (this.initiator) {
      this.#port ??= this.#ports.next()
      const { allowHalfOpen } = this
      const socket = net.connect({ port: await this.#port, host: '127.0.0.1', allowHalfOpen })
      await new Promise((resolve, reject) => {
        socket.on('connect', resolve)
        socket.on('error', reject)
      })
      return socket.setNoDelay()
    }
    if (this.#accepted === null) {
      this.#accepted = new Inbox()
      const { allowHalfOpen } = this
      const server = net.createServer({ allowHalfOpen, noDelay: true }, (socket) => {
        socket.on('error', () => {})
        this.#accepted.push(socket)
      })
      await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
      this.#say({ port: server.address().port })
    }
    return this.#accepted.next()
  }

  // A secret stream over the next connection, its handshake under way.
  async dial (options) {
    return this.secure(await this.#raw(), options)
  }

  async #raw () {
    if (this.options.over !== 'udx') return this.tcp()
    this.#udx ??= new Udx(this)
    this.#link ??= await this.#udx.link()
    // As in hyperdht.
    const [stream] = await this.#udx.connect(this.#link, [this.#gone.size], (stream) => stream, {
      framed: true
    })
    return stream
  }

  secure (socket, options) {
    const stream = new SecretStream(this.initiator, socket, options)
    let error = null
    stream.on('error', (err) => {
      error = err
      this.#errors.push(err)
    })
    this.#gone.set(stream, new Promise((resolve) => stream.on('close', () => resolve(error))))
    return stream
  }

  // The same, open.
  async stream (options) {
    const stream = await this.dial(options)
    assert.equal(await stream.opened, true, 'the secret stream opens')
    return stream
  }

  // Resolves when the stream is gone, to the error that ended it or null.
  gone (stream) {
    return this.#gone.get(stream)
  }

  // --- the mux

  // The mux of a stream, with `frames`: every frame that came in, as text (see wire.mjs).
  mux (stream) {
    const frames = new Inbox()
    stream.on('data', (data) => {
      const frame = describe(data)
      frames.push(frame)
      this.#entries.push(...frame.entries)
    })
    const mux = new Protomux(stream)
    const gates = []
    const gate = ([n]) => (gates[n] ??= deferred())
    mux.pair({ protocol: 'fence' }, (id) => gate(id).promise)
    mux.frames = frames
    mux.fences = { count: 0, gate }
    return mux
  }

  // A barrier inside the stream: once both sides have passed it, all that the other one had sent
  // before it has been handled here. It takes a channel, which stays open.
  async fence (mux) {
    const id = Buffer.from([mux.fences.count++])
    const channel = mux.createChannel({ protocol: 'fence', id })
    channel.open()
    mux.fences.gate(id).resolve()
    this.#waits.add('fence')
    assert.equal(await channel.fullyOpened(), true, 'the fence opens')
    this.#waits.delete('fence')
  }

  // A channel that logs its life: [open, handshake], [message, type, value], [close, is remote],
  // [destroy]. `types` are the encodings of its messages, null for a skipped one.
  watch (mux, protocol, { types = [c.string], ...options } = {}) {
    const log = new Inbox()
    const channel = mux.createChannel({
      protocol,
      messages: types.map((encoding, type) => encoding && {
        encoding,
        onmessage: (value) => log.push(['message', type, value])
      }),
      onopen: (handshake) => log.push(['open', handshake]),
      onclose: (isRemote) => log.push(['close', isRemote]),
      ondestroy: () => log.push(['destroy']),
      ...options
    })
    if (channel === null) return null
    return { channel, log, send: (value, type = 0) => channel.messages[type].send(value) }
  }

  // One watched channel between the two sides: the opener opens it, once the other one is ready to
  // be opened to, which answers in its pair callback. `open` is this side's handshake.
  async meet (mux, protocol, { open, ...options } = {}) {
    const create = () => {
      const watched = this.watch(mux, protocol, options)
      watched.channel.open(open)
      return watched
    }
    if (this.opener) {
      await this.hear('meet ' + protocol)
      return create()
    }
    const { promise, resolve } = deferred()
    mux.pair({ protocol, id: options.id }, () => resolve(create()))
    this.tell('meet ' + protocol)
    return promise
  }
}

// The protocols of the channels that a mux has, in the order it gives them.
export function protocols (mux) {
  return [...mux].map((channel) => channel.protocol)
}

// What stood in all the frames that came in and that nobody took.
export function entries (mux) {
  return mux.frames.items.flatMap((frame) => frame.entries)
}
