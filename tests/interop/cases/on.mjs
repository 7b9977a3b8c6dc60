// The Node twin of test_on.py.

import b4a from 'b4a'
import Wakeup from 'protomux-wakeup'

const CAPABILITY = b4a.alloc(32, 6)

export async function a_command_runs_when_we_announce (t) {
  const w = new Wakeup()
  const session = w.session(CAPABILITY, {
    onlookup: (_, peer) => session.announce(peer, [])
  })
  w.addStream(await t.stream())
  for (let rounds = await t.hear('rounds'); rounds > 0; rounds--) {
    for (const writers of await t.hear('announce')) {
      const known = writers.map(([key, length]) => ({ key: b4a.from(key, 'hex'), length }))
      for (const peer of session.peers) session.announce(peer, known)
    }
  }
  await t.hear('done')
}
