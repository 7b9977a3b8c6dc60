// Two originals that talk with each other, and what each of them did and was sent, step by step.

import { RecordingStream, settle } from '../../tests/golden/frames.mjs'
import { keep, script } from './corpus.mjs'

const FRAME = 0
const QUIET = 1

// `make(stream, index)` returns a side, which has a method for each call; a call returns the step
// that stands for it. Both sides of the talk become inputs of `target`. Returns all frames.
export async function talk (target, name, calls, make, scene = 0) {
  const streams = [0, 1].map((index) => new RecordingStream(index === 0, Buffer.alloc(64)))
  const sides = streams.map(make)
  const steps = [[], []]
  const frames = []
  for (const together of calls) {
    for (const [index, call, ...args] of together) steps[index].push(sides[index][call](...args))
    for (let quiet = 0; quiet < 3; quiet++) {
      await settle()
      for (const index of [0, 1]) {
        for (const frame of streams[index].take()) {
          quiet = 0
          frames.push(frame)
          steps[1 - index].push([FRAME, frame])
          streams[1 - index].emit('data', frame)
        }
      }
    }
    for (const list of steps) list.push([QUIET])
  }
  for (const side of sides) side.end?.()
  steps.forEach((list, index) => {
    keep(target, `${name} ${index ? 'responder' : 'initiator'}`, script(scene | (index ? 0 : 1), list))
  })
  return frames
}
