// One end of one UDX stream on udx-native: `node bench/peers/udx.mjs OPTIONS`. See udx.py.

import { once } from 'node:events'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { inspect } from 'node:util'

import { cpu, fail, now, say } from './talk.mjs'

const require = createRequire(new URL('../../tests/interop/package.json', import.meta.url))
const UDX = require('udx-native')

const PERIOD = 65_521
const CHUNK = 65_536
const SAMPLE = 50 // ms

const pattern = Buffer.alloc(PERIOD + CHUNK)
for (let at = 0; at < pattern.length; at++) pattern[at] = (Math.imul(at % PERIOD, 40_503) >>> 7) & 255

class Sender {
  sent = 0
  began = now()
  #cpu = cpu()

  constructor (stream, bytes) {
    this.#run(stream, bytes ?? Infinity)
  }

  async #run (stream, bytes) {
    while (this.sent < bytes) {
      const at = this.sent % PERIOD
      const chunk = pattern.subarray(at, at + Math.min(CHUNK, bytes - this.sent))
      this.sent += chunk.length
      if (!stream.write(chunk)) await once(stream, 'drain')
    }
  }

  result () {
    return { began: this.began, count: this.sent, cpu: cpu() - this.#cpu }
  }
}

class Receiver {
  count = 0
  samples = []
  ended = null
  #cpu = cpu()

  constructor (stream, bytes) {
    stream.on('data', (data) => {
      this.#verify(data)
      this.count += data.length
      if (this.count !== bytes) return
      this.ended = now()
      say({ result: this.result() })
    })
    setInterval(() => this.samples.push([now(), this.count]), SAMPLE)
  }

  #verify (data) {
    for (let done = 0; done < data.length; done += CHUNK) {
      const part = data.subarray(done, done + CHUNK)
      const at = (this.count + done) % PERIOD
      if (!part.equals(pattern.subarray(at, at + part.length))) {
        fail(`the bytes from ${this.count + done} on are not what was sent`)
      }
    }
  }

  result () {
    return { ended: this.ended, count: this.count, samples: this.samples, cpu: cpu() - this.#cpu }
  }
}

process.on('uncaughtException', (error) => fail(error.stack || inspect(error)))
process.on('unhandledRejection', (error) => fail(error?.stack || inspect(error)))

const udx = new UDX()
const socket = udx.createSocket()
socket.bind(0, '127.0.0.1')
say({ port: socket.address().port })

const sides = { send: Sender, receive: Receiver }
let side = null

const lines = createInterface({ input: process.stdin })
lines.on('close', () => process.exit(0))
lines.on('line', (line) => {
  const { do: order, address, id, remote_id: remoteId, bytes } = JSON.parse(line)
  if (order === 'stop') return say({ result: side.result() })
  const stream = udx.createStream(id)
  stream.on('error', (error) => fail(error.stack))
  stream.connect(socket, remoteId, address[1], address[0])
  side = new sides[order](stream, bytes)
  say({ ready: order })
})
