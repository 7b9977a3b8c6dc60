// Both sides hold the same: topics, their peers on one stream, or idle streams. See held.py.

import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

import { capability } from './content.mjs'
import { Meeting } from './meeting.mjs'
import { Wakeup } from './originals.mjs'
import { Arrivals } from './talk.mjs'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc')

class Node extends Arrivals {
  constructor (secrets) {
    super()
    this.swarm = new Wakeup()
    const handlers = { onpeeradd: () => { if (++this.count === this.expected) this.finish() } }
    this.sessions = secrets.map((secret) => this.swarm.session(secret, handlers))
  }

  async prove (stream) {
    this.expect(this.sessions.length)
    this.swarm.addStream(stream)
    await this.wait()
  }

  get ids () {
    return this.sessions.reduce((sum, session) => sum + session.topic.id.readUInt32BE(0), 0)
  }
}

function resident () {
  gc()
  const text = readFileSync('/proc/self/smaps_rollup', 'utf8')
  return Number(/^Rss:\s+(\d+) kB$/m.exec(text)[1]) * 1024
}

async function finish (talk, row, before, count, check) {
  await talk.sync('held')
  const each = (resident() - before) / count
  await talk.sync('measured')
  talk.finish(count, check(), { [row]: each }) // which keeps what it looks at from the collector
}

// The topics that are there before, and those that come then.
function makeSecrets (talk) {
  const count = talk.size.topics
  const length = count + Math.floor(count / 20)
  const secrets = Array.from({ length }, (_, number) => capability(number))
  return [secrets.slice(count), secrets.slice(0, count)]
}

export async function topics (talk) {
  await Meeting.begin(talk)
  const [first, rest] = makeSecrets(talk)
  const early = new Node(first)
  const before = resident()
  const node = new Node(rest)
  const check = () => early.ids + node.ids
  await finish(talk, 'memory per topic', before, node.sessions.length, check)
}

export async function peers (talk) {
  const meeting = await Meeting.begin(talk)
  const [early, node] = makeSecrets(talk).map((secrets) => new Node(secrets))
  await early.prove(await meeting.stream())
  const stream = await meeting.stream()
  await talk.sync('open')
  const before = resident()
  await node.prove(stream)
  await finish(talk, 'memory per peer', before, node.count, () => early.ids + node.ids)
}

export async function streams (talk) {
  const meeting = await Meeting.begin(talk)
  const count = talk.size.streams
  const [early, node] = [new Node([]), new Node([])]
  for (const stream of await meeting.streams(Math.floor(count / 20))) early.swarm.addStream(stream)
  await talk.sync('open')
  const before = resident()
  const held = await meeting.streams(count)
  for (const stream of held) node.swarm.addStream(stream)
  const check = () => held.reduce((sum, one) => sum + one.handshakeHash.readUInt32BE(0), 0)
  await finish(talk, 'memory per stream', before, held.length, check)
  early.swarm.destroy()
  node.swarm.destroy()
}
