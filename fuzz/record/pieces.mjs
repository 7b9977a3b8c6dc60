// Frames and their payloads, for the harnesses `encoding`, `frames` and `dissect`.

import { unhex } from '../../tests/golden/originals.mjs'
import { keep, vectors } from './corpus.mjs'

// As `ENCODINGS` in harness/encoding.py counts them.
const MESSAGES = { handshake: 13, lookup: 14, announce: 15, info: 16 }
const ENCODINGS = { uint: 0, int: 1, fixed32: 2, fixed64: 3, buffer: 5, optionalBuffer: 6, string: 7, bool: 8, raw: 9, json: 10 }
const OPEN = 0
const BATCH = 1
const MOST = 256
// As `CASES` in twins.py counts them, and what harness/dissect.py has behind them.
const [FRAME, CONVERSATION] = [15, 17]

export function pieces (frames) {
  let said = [Buffer.from([CONVERSATION])]
  for (const [index, frame] of frames.entries()) {
    if (frame.length >= 200) continue
    keep('dissect', `frame ${index}`, Buffer.concat([Buffer.from([FRAME]), frame]))
    if (Buffer.concat(said).length + frame.length > 250) {
      keep('dissect', `conversation ${index}`, Buffer.concat(said))
      said = said.slice(0, 1)
    }
    said.push(Buffer.from([frame.length]), frame)
  }
  for (const [index, frame] of frames.entries()) {
    if (frame[0] !== 0 || frame[1] > 1) continue
    const kind = frame[1] === 1 ? OPEN : BATCH
    keep('frames', `${kind === OPEN ? 'open' : 'batch'} ${index}`, Buffer.concat([Buffer.from([kind]), frame.subarray(2)]))
  }
  keep('frames', 'outbox', Buffer.from([2, 60, 100, 1, 0, 31, 1, 0, 31, 2, 1, 3, 2, 1, 20, 255, 255, 8, 255, 255, 24]))
  const { encode, decode } = vectors('wakeup')
  for (const [index, { message, bytes }] of [...encode, ...decode].entries()) input(MESSAGES[message], index, message, bytes)
  const plain = vectors('encodings')
  for (const [index, { encoding, bytes }] of [...plain.encode, ...plain.decode].entries()) {
    input(ENCODINGS[encoding.type], index, encoding.type, bytes)
  }
}

function input (number, index, name, bytes) {
  if (number === undefined || typeof bytes !== 'string' || bytes.length > MOST) return
  keep('encoding', `${name} ${index}`, Buffer.concat([Buffer.from([number, 0]), unhex(bytes)]))
}
