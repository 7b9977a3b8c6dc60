// The Node twin of test_service.py.

import assert from 'node:assert/strict'

import b4a from 'b4a'
import Wakeup from 'protomux-wakeup'

import { Inbox } from '../twin.mjs'

const CAPABILITY = b4a.alloc(32, 1)
const KEY = b4a.alloc(32, 3)
const OTHER_KEY = b4a.alloc(32, 4)

export async function watch_and_announce (t) {
  const announces = new Inbox()
  const w = new Wakeup()
  const session = w.session(CAPABILITY, {
    onlookup: (_, peer) => session.announce(peer, [{ key: KEY, length: 2 ** 53 - 1 }]),
    onannounce: (writers) => announces.push(writers)
  })
  w.addStream(await t.stream())
  assert.deepEqual(await announces.next(), [{ key: OTHER_KEY, length: 7 }])
  session.broadcastLookup({})
  assert.deepEqual(await announces.next(), [{ key: OTHER_KEY, length: 7 }])
  t.tell('heard')
  await t.hear('more')
  for (const peer of session.peers) session.announce(peer, [{ key: OTHER_KEY, length: 8 }])
  await t.hear('done')
}
