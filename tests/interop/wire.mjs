// Frames of the mux as text, so that a case can say what must stand on the wire:
//
//   open 1 name            open 1 name/ID +HANDSHAKE      reject 1      close 1
//   1:0 PAYLOAD            a message of type 0 for the sender's channel 1
//
// ID, HANDSHAKE and PAYLOAD are hex, cut after 16 bytes. A frame is {size, batch, entries}; what
// does not decode is the entry "malformed".

import c from 'compact-encoding'

const CONTROL = ['batch', 'open', 'reject', 'close']

export function describe (data) {
  const frame = { size: data.byteLength, batch: false, entries: [] }
  try {
    read({ buffer: data, start: 0, end: data.byteLength }, frame)
  } catch {
    frame.entries.push('malformed')
  }
  return frame
}

function read (state, frame) {
  if (state.end === 0) return
  let channel = c.uint.decode(state)
  if (channel !== 0 || state.buffer[state.start] !== 0) {
    frame.entries.push(entry(channel, state))
    return
  }
  frame.batch = true
  state.start++
  channel = c.uint.decode(state)
  while (state.start < state.end) {
    const size = c.uint.decode(state)
    if (size === 0) {
      channel = c.uint.decode(state)
      continue
    }
    const { buffer, start } = state
    frame.entries.push(entry(channel, { buffer, start, end: start + size }))
    state.start += size
  }
}

function entry (channel, state) {
  const type = c.uint.decode(state)
  if (channel !== 0) return `${channel}:${type} ${rest(state)}`.trimEnd()
  const number = c.uint.decode(state)
  if (type !== 1) return `${CONTROL[type] ?? type} ${number}`
  const protocol = c.string.decode(state)
  const id = c.optionalBuffer.decode(state)
  const handshake = rest(state)
  return `open ${number} ${protocol}${id ? '/' + hex(id) : ''}${handshake ? ' +' + handshake : ''}`
}

function rest ({ buffer, start, end }) {
  return hex(buffer.subarray(start, end))
}

function hex (data) {
  return data.subarray(0, 16).toString('hex') + (data.byteLength > 16 ? '…' : '')
}
