// The twin of open.py for the npm originals: two swarms in this process share one encrypted
// stream over loopback TCP, and both open the same topics.
//
//   node bench/open.mjs TOPICS    prints {"topics", "opened", "closed", "node"}, times in seconds
//
// The packages are those of tests/interop.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import net from 'node:net'

const require = createRequire(new URL('../tests/interop/package.json', import.meta.url))
const SecretStream = require('@hyperswarm/secret-stream')
const Protomux = require('protomux')
const Wakeup = require('protomux-wakeup')

const topics = Number(process.argv[2])
const capabilities = Array.from({ length: topics }, () => randomBytes(32))

class Side {
  constructor(stream) {
    this.stream = stream
    this.swarm = new Wakeup()
    this.swarm.addStream(stream)
    this.peers = 0
    this.waiting = null
  }

  open(capability) {
    this.swarm.session(capability, {
      onpeeradd: () => this.moved(1),
      onpeerremove: () => this.moved(-1)
    })
  }

  moved(by) {
    this.peers += by
    if (this.waiting !== null && this.peers === this.waiting.peers) this.waiting.done()
  }

  waitFor(peers) {
    if (this.peers === peers) return Promise.resolve()
    return new Promise((resolve) => {
      this.waiting = { peers, done: resolve }
    })
  }
}

const server = net.createServer().listen(0, '127.0.0.1')
await once(server, 'listening')
const socket = net.connect(server.address().port, '127.0.0.1')
const [accepted] = await once(server, 'connection')
for (const end of [socket, accepted]) end.setNoDelay(true)
const first = new SecretStream(true, socket)
const second = new SecretStream(false, accepted)
assert((await first.opened) && (await second.opened))
const sides = [new Side(first), new Side(second)]

let began = performance.now()
for (const side of sides) for (const capability of capabilities) side.open(capability)
await Promise.all(sides.map((side) => side.waitFor(topics)))
const opened = (performance.now() - began) / 1000
for (const side of sides) {
  assert.equal(side.swarm.stats.peersAdded, topics)
  assert.equal([...Protomux.from(side.stream)].length, topics)
}

began = performance.now()
sides[0].swarm.destroy()
await sides[1].waitFor(0)
const closed = (performance.now() - began) / 1000
assert.equal(sides[1].swarm.stats.peersRemoved, topics)

console.log(JSON.stringify({ topics, opened, closed, node: process.versions.node }))
process.exit(0)
