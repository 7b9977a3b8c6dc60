// What compact-encoding writes, reads and refuses.

import assert from 'node:assert'

import { c, fill, hex, output, pattern, plain, refuses, repeat, save, unhex } from './originals.mjs'

const MAX = Number.MAX_SAFE_INTEGER
const NAMES = { int: 'int', bool: 'bool', optional_buffer: 'optionalBuffer' }
const of = (type, more) => ({ type, ...more })
const arrayOf = (item) => of('array', { of: item })
export const [UINT, INT, RAW, BUFFER, STRING, BOOL, JSON_] =
  ['uint', 'int', 'raw', 'buffer', 'string', 'bool', 'json'].map((type) => of(type))
const [OPTIONAL, FIXED32, FIXED64] = ['optional_buffer', 'fixed32', 'fixed64'].map((type) => of(type))

export function codec (encoding) {
  if (encoding.type === 'array') return c.array(codec(encoding.of))
  if (encoding.type === 'fixed') return c.fixed(encoding.size)
  return c[NAMES[encoding.type] ?? encoding.type]
}

function decode (encoding, bytes) {
  const state = c.state(0, bytes.byteLength, bytes)
  const value = codec(encoding).decode(state)
  return { value: plain(value), consumed: state.start }
}

const ENCODE = [
  [UINT, [0, 1, 0xfb, 0xfc, 0xfd, 0xfe, 0xff, 0x100, 0xfffe, 0xffff, 0x10000, 0x10001, 0xffffff,
    2 ** 31 - 1, 2 ** 31, 0xfffffffe, 0xffffffff, 2 ** 32, 2 ** 32 + 1, 2 ** 48, 2 ** 52, MAX - 1, MAX]],
  [INT, [0, -1, 1, -2, 2, 126, -126, -127, 127, 128, -128, 0x7fff, -0x8000, 0x8000, 2 ** 31 - 1, -(2 ** 31),
    2 ** 31, -(2 ** 31) - 1, 2 ** 40, -(2 ** 40), 2 ** 52 - 2, 2 ** 52 - 1, 1 - 2 ** 52, -(2 ** 52)]],
  [FIXED32, [fill(0), fill(255), pattern(32)]],
  [FIXED64, [fill(1, 64), pattern(64)]],
  ...[0, 1, 5, 24].map((size) => [of('fixed', { size }), [fill(7, size)]]),
  [BUFFER, [fill(0, 0), fill(0, 1), fill(9, 252), fill(9, 253), pattern(1000), pattern(65535), pattern(65536)]],
  [OPTIONAL, [null, fill(0, 0), fill(0, 1), fill(9, 32), fill(9, 252), fill(9, 253), pattern(65536)]],
  [STRING, ['', 'a', 'hypercore/alpha', '\0', 'gr\u00fc\u00df dich', '\u65e5\u672c\u8a9e', '\u{1f680} away',
    '\ufeffmarked', 'e\u0301 \u00e9', '\uffff\u{10ffff}', repeat('x', 56), repeat('x', 57), repeat('x', 64),
    repeat('x', 65), repeat('x', 252), repeat('x', 253), repeat('\u00e9', 126), repeat('\u00e9', 127),
    repeat('\u{1f4a1}', 16384)]],
  [BOOL, [true, false]],
  [RAW, [fill(0, 0), fill(0, 1), pattern(100), pattern(70000)]],
  [JSON_, [null, true, 0, -1, 1.5, 0.1, MAX, -MAX, 1e21, 1e-5, 1e-7, 1e-10, 1e16, 5e-324, 1.7976931348623157e308, '', 'text',
    'tab\t quote" back\\ slash/ \b\f\n\r\x01\x7f', '\u00fc \u2028 \u{1f680}', '\ud800 alone', [], {},
    [1, [2, [3, null]], 'x'], { a: 1, b: { c: [true, false] }, '': null, '\u00fc': 'y' }]],
  [arrayOf(UINT), [[], [0], [1, 252, 253, 65535, 65536, MAX], repeat(3, 252), repeat(3, 253)]],
  [arrayOf(INT), [[0, -1, 1, -(2 ** 52)]]],
  [arrayOf(STRING), [['', 'a', '\u65e5']]],
  [arrayOf(BUFFER), [[fill(1, 3), fill(0, 0)]]],
  [arrayOf(OPTIONAL), [[null, fill(2, 2)]]],
  [arrayOf(FIXED32), [[fill(1), fill(2)]]],
  [arrayOf(BOOL), [[true, false, true], repeat(true, 0x100000)]],
  [arrayOf(JSON_), [[{ a: [1] }, null]]],
  [arrayOf(arrayOf(UINT)), [[], [[]], [[1, 2], [], [300]]]],
  [arrayOf(arrayOf(arrayOf(STRING))), [[[['deep'], []], []]]]
]

const REFUSED_VALUES = [
  [UINT, [-1, MAX + 1, 2 ** 64]],
  [INT, [2 ** 52, -(2 ** 52) - 1, MAX]],
  [FIXED32, [fill(0, 0), fill(0, 31), fill(0, 33)]],
  [FIXED64, [fill(0, 63), fill(0, 65)]],
  [of('fixed', { size: 5 }), [fill(0, 4), fill(0, 6)]],
  [arrayOf(UINT), [[1, -1]]],
  [arrayOf(FIXED32), [[fill(0), fill(0, 31)]]]
]

const DECODE = [
  [UINT, ['00ff', 'fd0000', 'fdfc00', 'fe00000000', 'feffff0000', 'ff0000000000000000', 'ffffffffff00000000',
    'ffffffffffffff1f00', 'ffffffffffffff1f0099', 'ff00000000000020 00', 'ffffffffffffffffff', 'ff0000000000000080']],
  [INT, ['fd0000', 'fd0100', 'fffeffffffffff1f00', 'ffffffffffffff1f00', 'ff00000000000020 00']],
  [BUFFER, ['fd0200aabb', '01aabb', 'ffffffffffffff1f00aa', 'feffffffffaa']],
  [OPTIONAL, ['00aa', 'fd0000', 'fd0100aa', '05aabb']],
  [STRING, ['0161ff', 'fd010061', '01ff', '02c3', '03eda080', '02c080', '04f4908080', '04efbfbd41', 'fd0001ff']],
  [BOOL, ['00', '01', '02', 'ff', '0100']],
  [FIXED32, [hex(fill(3, 33))]],
  [RAW, ['', '00', 'ff00ff']],
  [JSON_, ['056e756c6c20', '0420312020', '077b2261223a317d', '0d7b2261223a312c2261223a327d', '035b315d', '00', '012d',
    '034e614e', '08496e66696e697479', '045b312c5d', '06efbbbf6e756c', '0227 27', '0130', '023031', '0431653530',
    '0122', '07225c75643830', '08225c756438303022']],
  [arrayOf(UINT), ['00', '020102ff', 'fd01 0005', 'fe00001000', 'fe01001000', 'ff0100000001000000', '0301']],
  [arrayOf(of('fixed', { size: 0 })), ['05', 'fe01001000']],
  [arrayOf(arrayOf(UINT)), ['02010100', '01fe01001000', '0101']]
]

// Every cut of bytes that tell where they end is refused.
export function truncated (bytes, read) {
  for (let size = 0; size < bytes.byteLength; size++) assert(refuses(() => read(bytes.subarray(0, size))))
  return { truncated: 'refused' }
}

export function encodings () {
  const sections = { encode: [], decode: [], mended: [], refused_values: [], refused_bytes: [] }
  for (const [encoding, values] of ENCODE) {
    for (const value of values) {
      const bytes = c.encode(codec(encoding), value instanceof String ? String(value) : value)
      const entry = { encoding, value: plain(value), bytes: output(bytes) }
      const back = decode(encoding, bytes)
      assert.equal(back.consumed, bytes.byteLength)
      // All values come back as they were, but for an optional buffer without bytes.
      if (back.value === null && value !== null) entry.decoded = null
      if (encoding !== RAW && bytes.byteLength < 400) {
        Object.assign(entry, truncated(bytes, (part) => decode(encoding, part)))
      }
      sections.encode.push(entry)
    }
  }
  for (const [encoding, inputs] of DECODE) {
    for (const bytes of inputs.map(unhex)) {
      const entry = { encoding, bytes: hex(bytes) }
      if (refuses(() => decode(encoding, bytes))) {
        sections.refused_bytes.push(entry)
        continue
      }
      const back = decode(encoding, bytes)
      // Bytes that are no UTF-8 are read, with U+FFFD in their place.
      const isMended = encoding === STRING && !bytes.includes(Buffer.from(back.value))
      sections[isMended ? 'mended' : 'decode'].push({ ...entry, ...back })
    }
  }
  for (const [encoding, values] of REFUSED_VALUES) {
    for (const value of values) {
      assert(refuses(() => c.encode(codec(encoding), value)))
      sections.refused_values.push({ encoding, value: plain(value) })
    }
  }
  save('encodings', ['compact-encoding'], sections)
}
