// Handshakes and secret streams of the originals, as `tests/golden` has recorded them.

import { unhex } from '../../tests/golden/originals.mjs'
import { keep, script, vectors } from './corpus.mjs'

const PATTERNS = ['XX', 'IK', 'XK']
const BYTES = 0
const [QUIET, ARRIVE, PEER_WRITES, WRITE, CLOSE, PEER_CLOSES] = [1, 2, 4, 5, 8, 9]
const CHUNK = 100

const scene = (pattern, role) => PATTERNS.indexOf(pattern) * 2 + (role === 'initiator' ? 1 : 0)
const isOurs = (keys) => unhex(keys.initiator.static_seed)[0] === 1 && unhex(keys.initiator.static_seed)[1] === 1

export function sealed () {
  const { transcripts, with_payloads: payloads, changed } = vectors('noise')
  for (const [index, transcript] of [...transcripts, ...payloads].filter(isOurs).entries()) {
    for (const [turn, role] of ['initiator', 'responder'].entries()) {
      const heard = transcript.messages.filter((_, i) => i % 2 !== turn)
      keep('noise', `${transcript.pattern} ${index} ${role}`,
        script(scene(transcript.pattern, role), heard.map((message) => [BYTES, unhex(message)])))
    }
  }
  for (const { pattern, message, change, bytes } of changed) {
    const { messages } = transcripts.find((one) => isOurs(one) && one.pattern === pattern)
    const role = message % 2 ? 'initiator' : 'responder'
    const heard = messages.slice(0, message).filter((_, i) => i % 2 === message % 2)
    keep('noise', `${pattern} ${message} ${change}`,
      script(scene(pattern, role), [...heard, bytes].map((one) => [BYTES, unhex(one)])))
  }
  for (const talk of vectors('secretstream').conversations) {
    for (const [role, other] of [['initiator', 'responder'], ['responder', 'initiator']]) {
      const bytes = unhex(talk[other].sends)
      const chunks = []
      for (let at = 0; at < bytes.length; at += CHUNK) chunks.push([BYTES, bytes.subarray(at, at + CHUNK)])
      keep('secret', `${talk.pattern} ${role}`, script(scene(talk.pattern, role), chunks))
      const says = talk[other].says.map((text) => [PEER_WRITES, unhex(text)])
      keep('secret', `${talk.pattern} ${role} live`, script(scene(talk.pattern, role),
        [[QUIET], ...says, [WRITE, 5], [ARRIVE, 70, 0], [QUIET], [PEER_CLOSES, 0], [QUIET], [CLOSE, 0]]))
    }
  }
}
