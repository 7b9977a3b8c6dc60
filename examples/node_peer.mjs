// A wakeup peer made of the JavaScript originals, for talk_to_node.py to talk to.
//
// It listens, asks every peer which logs have grown, and answers when it is asked.
//
//   cd examples
//   npm install --no-save protomux-wakeup @hyperswarm/secret-stream
//   export WAKEUP_CAPABILITY=...                 64 hex digits, the same on both sides
//   node node_peer.mjs 4000
//
// (protomux comes along with protomux-wakeup.) Ctrl-C stops it.

import { createServer } from 'node:net'

import SecretStream from '@hyperswarm/secret-stream'
import Wakeup from 'protomux-wakeup'

const capability = Buffer.from(process.env.WAKEUP_CAPABILITY, 'hex')
const log = { key: Buffer.alloc(32, 'node'), length: 10 }

const wakeup = new Wakeup()

wakeup.session(capability, {
  onpeeradd (peer, session) {
    console.log('a peer has proved the capability')
    session.lookup(peer)
  },
  onpeerremove () {
    console.log('the peer has left')
  },
  onlookup (req, peer, session) {
    console.log('asked, hash', req.hash && req.hash.toString('hex'))
    session.announce(peer, [log])
  },
  onannounce (writers) {
    for (const { key, length } of writers) console.log('told', key.toString('hex'), length)
  }
})

const streams = new Set()

const server = createServer({ allowHalfOpen: true }, (socket) => {
  const stream = new SecretStream(false, socket)
  streams.add(stream)
  stream.on('error', (error) => console.error('stream:', error.message))
  stream.on('close', () => streams.delete(stream))
  wakeup.addStream(stream)
})

server.listen(Number(process.argv[2]), '127.0.0.1', () => {
  console.log('listening on port', server.address().port)
})

process.once('SIGINT', () => {
  server.close()
  wakeup.destroy()
  for (const stream of streams) stream.end()
})
