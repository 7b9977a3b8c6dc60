// Files of the corpus, and scripts as `harness/script.py` reads them.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'

import { crypto, hex } from '../../tests/golden/originals.mjs'

const root = new URL('../corpus/', import.meta.url)
const written = new Set()

export function clear () {
  rmSync(root, { recursive: true, force: true })
}

// Keeps an input, unless the target has the same one already.
export function keep (target, name, bytes) {
  const digest = target + hex(crypto.hash(bytes))
  if (written.has(digest)) return
  written.add(digest)
  const folder = new URL(`${target}/`, root)
  mkdirSync(folder, { recursive: true })
  writeFileSync(new URL(name.toLowerCase().replace(/[^a-z0-9]+/g, '-'), folder), bytes)
}

export function script (scene, steps) {
  const parts = [Buffer.from([scene])]
  for (const [op, ...data] of steps) {
    const bytes = Buffer.concat(data.map((part) => typeof part === 'number' ? Buffer.from([part]) : part))
    const head = Buffer.alloc(3)
    head.writeUInt8(op)
    head.writeUInt16LE(bytes.length, 1)
    parts.push(head, bytes)
  }
  return Buffer.concat(parts)
}

export function vectors (name) {
  return JSON.parse(readFileSync(new URL(`../../tests/golden/vectors/${name}.json`, import.meta.url)))
}
