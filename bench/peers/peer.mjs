// One side of one work with the npm originals: `node bench/peers/peer.mjs OPTIONS`, the twin of
// `python -m bench.peers OPTIONS`. OPTIONS is a JSON object, see talk.mjs.

import { inspect } from 'node:util'

import * as announces from './announces.mjs'
import * as codec from './codec.mjs'
import * as connects from './connects.mjs'
import * as fanout from './fanout.mjs'
import * as held from './held.mjs'
import * as jitpc from './jitpc.mjs'
import * as lookups from './lookups.mjs'
import * as opens from './opens.mjs'
import * as raw from './raw.mjs'
import { Talk, fail } from './talk.mjs'

const WORKS = {
  announces,
  lookups,
  fanout,
  opens: { client: opens.onOne, listener: opens.onOne },
  opens_on_many: { client: opens.onMany, listener: opens.onMany },
  connects,
  raw,
  jitpc,
  codec: { listener: codec.alone },
  topics_held: { client: held.topics, listener: held.topics },
  peers_held: { client: held.peers, listener: held.peers },
  streams_held: { client: held.streams, listener: held.streams }
}

process.on('uncaughtException', (error) => fail(error.stack || inspect(error)))
process.on('unhandledRejection', (error) => fail(error?.stack || inspect(error)))

const options = JSON.parse(process.argv[2])
const { client, listener } = WORKS[options.work]
const talk = new Talk(options)
await (talk.isClient ? client : listener)(talk)
