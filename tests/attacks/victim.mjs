// The victim on the originals: the same service as victim.py, and the same talk over stdin and
// stdout.
//
//   node victim.mjs CONFIG    from the folder whose node_modules has the originals
//
// The originals have no limits to set: `limits` of CONFIG is ignored.

import { readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import net from 'node:net'
import { createInterface } from 'node:readline'

const require = createRequire(new URL('../interop/package.json', import.meta.url))
const SecretStream = require('@hyperswarm/secret-stream')
const c = require('compact-encoding')
const crypto = require('hypercore-crypto')
const Protomux = require('protomux')
const Wakeup = require('protomux-wakeup')

const LATE = 50

const config = JSON.parse(process.argv[2])
const keyPair = crypto.keyPair()
const logs = Array.from({ length: 100 }, (_, i) => ({ key: Buffer.alloc(32, i), length: 1000 + i }))
const late = new Map(config.late.map((hex, i) => {
  const capability = Buffer.from(hex, 'hex')
  const id = crypto.discoveryKey(capability).toString('hex')
  return [id, { capability, atOnce: i % 2 === 0 }]
}))

const streams = new Set()
const errors = {}
const heard = {}
let messages = 0
let peers = 0

const wakeup = new Wakeup(woken)
open(Buffer.from(config.capability, 'hex'))

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function open (capability) {
  wakeup.session(capability, {
    onpeeradd: () => { peers++ },
    onpeerremove: () => { peers-- },
    onpeeractive: () => {},
    onpeerinactive: () => {},
    onlookup: (lookup, peer, session) => {
      hear(lookup.hash)
      session.announce(peer, logs)
    },
    onannounce: (writers) => {
      if (writers.length > 0) hear(writers[0].key)
    }
  })
}

function hear (key) {
  const hex = key ? key.toString('hex') : ''
  if (!hex.startsWith(config.mark)) return
  heard[hex] = (heard[hex] ?? 0) + 1
}

function woken (id) {
  const found = id && late.get(id.toString('hex'))
  if (!found) return
  if (found.atOnce) return open(found.capability)
  return sleep(LATE).then(() => open(found.capability))
}

function serve (socket, pattern) {
  const stream = new SecretStream(false, socket, { pattern, keyPair })
  streams.add(stream)
  stream.on('close', () => streams.delete(stream))
  stream.on('error', ({ code, message }) => {
    if (code === 'ECONNRESET' || code === 'EPIPE') return // that was the peer's doing
    const name = message.slice(0, 60)
    errors[name] = (errors[name] ?? 0) + 1
  })
  const mux = Protomux.from(stream)
  mux.pair({ protocol: 'sink' }, (id) => sink(mux, id))
  mux.pair({ protocol: 'async-pair' }, (id) => pair(mux, id))
  wakeup.addStream(stream)
}

function sink (mux, id) {
  const channel = mux.createChannel({
    protocol: 'sink',
    id,
    unique: false,
    messages: [{ encoding: c.raw, onmessage: () => { messages++ } }]
  })
  if (channel !== null) channel.open()
}

async function pair (mux, id) {
  const kind = id === null ? 'reject' : id.subarray(0, 6).toString()
  if (kind === 'reject') return
  if (!kind.startsWith('late')) return new Promise(() => {})
  await sleep(LATE)
  const channel = mux.createChannel({ protocol: 'async-pair', id, unique: false })
  if (channel !== null) channel.open()
}

async function listen (pattern) {
  const server = net.createServer((socket) => serve(socket, pattern))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}

function say (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

say({
  port: await listen('XX'),
  ik_port: await listen('IK'),
  public_key: keyPair.publicKey.toString('hex')
})

// Streams over UDP: opened, closed, and counted, as `commanded` of victim.py has it.

const FLOW = 2 ** 24

let flows = 0
let flowBytes = 0
let udp = null

async function command (line) {
  const { flows: wanted } = JSON.parse(line)
  if (wanted === undefined) return status()
  if (udp !== null) await closeFlows()
  if (wanted === null) return {}
  const UDX = require('udx-native')
  const udx = new UDX()
  udp = { socket: udx.createSocket(), streams: [] }
  udp.socket.bind(0, '127.0.0.1')
  for (const [id, remoteId, port] of wanted) {
    const stream = udx.createStream(id)
    udp.streams.push(stream)
    flows++
    stream.on('data', (data) => { flowBytes += data.length })
    stream.on('error', () => {})
    stream.on('close', () => { flows-- })
    stream.connect(udp.socket, remoteId, port, '127.0.0.1')
    stream.write(Buffer.alloc(FLOW))
  }
  return { port: udp.socket.address().port }
}

async function closeFlows () {
  const { socket, streams } = udp
  udp = null
  for (const stream of streams) stream.destroy()
  await socket.close()
  flows = flowBytes = 0
}

const lines = createInterface({ input: process.stdin })
lines.on('line', async (line) => say(await command(line)))

const status = () => ({
  streams: streams.size,
  muxes: wakeup.muxers.size,
  channels: [...streams].reduce((sum, stream) => sum + [...Protomux.from(stream)].length, 0),
  peers,
  tasks: 0,
  sockets: readdirSync('/proc/self/fd').length,
  errors,
  heard,
  messages,
  flows,
  flow_bytes: flowBytes
})
lines.on('close', () => process.exit(0))
