// The originals, and how a vector is written down.
//
// Every file is ASCII and its bytes are hex. Long values are written short: going in, {"pattern": n}
// stands for n bytes, byte i being (7 * i + (i >> 8)) & 255 and from the start again after 65,536,
// and {"repeat": [x, n]} for n times x in a string or a list; coming out, {"length", "hash"}
// (BLAKE2b-256) stand for the bytes.

import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const interop = new URL('../interop/', import.meta.url)

export const require = createRequire(new URL('package.json', interop))

export const c = require('compact-encoding')
export const crypto = require('hypercore-crypto')

export const hex = (bytes) => Buffer.from(bytes).toString('hex')
export const unhex = (text) => Buffer.from(text.replaceAll(' ', ''), 'hex')
export const fill = (byte, size = 32) => Buffer.alloc(size, byte)

const PATTERN = Buffer.from(Uint8Array.from({ length: 65536 }, (_, i) => 7 * i + (i >> 8)))

export function pattern (size) {
  return Object.assign(Buffer.alloc(size, PATTERN), { pattern: size })
}

export function repeat (item, count) {
  // Only an object can carry toJSON, so a long string comes as one.
  const value = typeof item === 'string' ? Object(item.repeat(count)) : Array(count).fill(item)
  return Object.assign(value, { toJSON: () => ({ repeat: [item, count] }) })
}

// How a value that goes in is written down.
export function plain (value) {
  if (Buffer.isBuffer(value)) return value.pattern ? { pattern: value.pattern } : hex(value)
  if (value === null || typeof value !== 'object' || value.toJSON) return value
  if (Array.isArray(value)) return value.map(plain)
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]))
}

// How bytes that come out are written down.
export function output (bytes) {
  if (bytes.byteLength <= 400) return hex(bytes)
  return { length: bytes.byteLength, hash: hex(crypto.hash(bytes)) }
}

export function refuses (call) {
  try {
    call()
    return false
  } catch {
    return true
  }
}

function render (value, indent = '') {
  const flat = JSON.stringify(value)
  const leaf = value === null || typeof value !== 'object' || value.toJSON
  if (leaf || (indent.length >= 4 && indent.length + flat.length <= 160)) return flat
  const inner = indent + '  '
  const [open, close] = Array.isArray(value) ? '[]' : '{}'
  const items = Array.isArray(value)
    ? value.map((item) => render(item, inner))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${render(item, inner)}`)
  return `${open}\n${inner}${items.join(`,\n${inner}`)}\n${indent}${close}`
}

export function save (name, packages, sections) {
  const versions = {}
  for (const item of packages.sort()) {
    const manifest = new URL(`node_modules/${item}/package.json`, interop)
    versions[item] = JSON.parse(readFileSync(manifest)).version
  }
  const text = render({ versions, ...sections })
    .replace(/[\u007f-\uffff]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
  writeFileSync(new URL(`vectors/${name}.json`, import.meta.url), text + '\n')
}
