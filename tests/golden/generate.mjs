// Writes vectors/*.json: what the npm originals encode, decode, send, prove and refuse.
//
//   npm ci --prefix tests/interop && node tests/golden/generate.mjs
//
// Two runs write the same bytes. Whatever the originals draw at random is set to a fixed value
// right after they drew it: the ephemeral key of a handshake before its first message, and the
// header of a secretstream together with the state that libsodium derives from it (a state made
// for pulling can push as well).

import { cryptography } from './cryptography.mjs'
import { encodings } from './encodings.mjs'
import { frames } from './frames.mjs'
import { noise } from './noise.mjs'
import { secretstream } from './secretstream.mjs'
import { wakeup } from './wakeup.mjs'

encodings()
cryptography()
noise()
await frames()
await wakeup()
await secretstream()
