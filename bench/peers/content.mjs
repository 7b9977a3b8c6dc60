// What is sent, so that both sides know it: made of numbers alone. See content.py.

import { createHash } from 'node:crypto'

export const KEPT_EVERY = 64 // of so many measured messages one is kept whole

const bytes = (kind, number) => createHash('sha256').update(`${kind} ${number}`).digest()

export const capability = (number) => bytes('capability', number)
export const logKey = (number) => bytes('log', number)

// By turns one that takes 1 byte on the wire, 3 or 5.
export function length (number) {
  return [number % 0xfd, 0xfd + number, 0x10000 + number][number % 3]
}

export const FIRSTS = Array.from({ length: 61 }, (_, number) => logKey(number))

export class Announces {
  constructor (entries) {
    this.rest = Array.from({ length: entries - 1 }, (_, number) => (
      { key: logKey(FIRSTS.length + number), length: length(number) }
    ))
  }

  whole (number) {
    return [{ key: FIRSTS[number % 61], length: number }, ...this.rest]
  }

  // The sum of the first and the last length of announces first to last - 1.
  checksum (first, last) {
    const sum = (last * (last - 1) - first * (first - 1)) / 2
    return this.rest.length === 0 ? 2 * sum : sum + (last - first) * this.rest.at(-1).length
  }
}

export function isSame (writers, expected) {
  return writers.length === expected.length && writers.every(
    (writer, n) => writer.length === expected[n].length && writer.key.equals(expected[n].key)
  )
}

// The raw messages of so many bytes that are sent by turns.
export function pool (size) {
  return Array.from({ length: 61 }, (_, number) => Buffer.concat(
    Array.from({ length: Math.ceil(size / 32) }, (_, part) => bytes(`raw ${number}`, part))
  ).subarray(0, size))
}
