// Encodes and decodes announces, alone in its process and without a stream. See codec.py.

import { createHash } from 'node:crypto'

import { KEPT_EVERY, isSame, length, logKey } from './content.mjs'
import { announce, c } from './originals.mjs'
import { fail, now } from './talk.mjs'

const DIFFERENT = 16

export async function alone (talk) {
  const { warm, count, entries } = talk.size
  const lists = Array.from({ length: DIFFERENT }, (_, number) => writersOf(number * entries))
  const datas = lists.map((writers) => c.encode(announce, writers))
  for (const [number, data] of datas.entries()) {
    if (!isSame(c.decode(announce, data), lists[number])) {
      fail('expected the entries that were encoded, got others')
    }
  }
  encode(warm)
  decode(warm)
  const before = process.cpuUsage()
  const encoded = encode(count)
  const decoded = decode(count)
  const { user, system } = process.cpuUsage(before)
  talk.cpu = (user + system) / 1e6
  const digest = createHash('sha256').update(Buffer.concat(datas)).digest().readUInt32BE(0)
  talk.finish(count * entries, encoded.total + decoded.total + digest, {
    'codec-encode': count * entries / (encoded.nanoseconds / 1e9),
    'codec-decode': count * entries / (decoded.nanoseconds / 1e9)
  })

  function writersOf (first) {
    return Array.from({ length: entries }, (_, index) => (
      { key: logKey(first + index), length: length(first + index) }
    ))
  }

  function encode (count) {
    const kept = []
    let total = 0
    const began = now()
    for (let number = 0; number < count; number++) {
      const data = c.encode(announce, lists[number % DIFFERENT])
      total += data.byteLength
      if (number % KEPT_EVERY === 0) kept.push(data)
    }
    const nanoseconds = now() - began
    for (const [index, data] of kept.entries()) {
      if (!data.equals(datas[index * KEPT_EVERY % DIFFERENT])) {
        fail(`announce ${index * KEPT_EVERY} has other bytes than before`)
      }
    }
    return { nanoseconds, total }
  }

  function decode (count) {
    const kept = []
    let total = 0
    const began = now()
    for (let number = 0; number < count; number++) {
      const writers = c.decode(announce, datas[number % DIFFERENT])
      total += writers.length + writers[0].length + writers.at(-1).length
      if (number % KEPT_EVERY === 0) kept.push(writers)
    }
    const nanoseconds = now() - began
    for (const [index, writers] of kept.entries()) {
      if (!isSame(writers, lists[index * KEPT_EVERY % DIFFERENT])) {
        fail(`announce ${index * KEPT_EVERY} has other entries than before`)
      }
    }
    return { nanoseconds, total }
  }
}
