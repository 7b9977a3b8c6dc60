// Writes corpus/: conversations of the npm originals, as inputs of the harnesses.
//
//   npm ci --prefix tests/interop && node fuzz/record.mjs
//
// Two runs write the same bytes: nothing in a conversation is drawn at random.

import { clear } from './record/corpus.mjs'
import { mux } from './record/mux.mjs'
import { sealed } from './record/sealed.mjs'
import { pieces } from './record/pieces.mjs'
import { wakeup } from './record/wakeup.mjs'

clear()
const frames = [...await mux(), ...await wakeup()]
pieces(frames)
sealed()
