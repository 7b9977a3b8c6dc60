// The twin of sitecustomize.py for the originals.

import { createRequire } from 'node:module'

const require = createRequire(new URL('../interop/package.json', import.meta.url))
const Wakeup = require('protomux-wakeup')

const [kind, number] = process.env.SABOTAGE.split(':')
const open = Wakeup.prototype.session
let announced = 0

Wakeup.prototype.session = function (...args) {
  const session = open.apply(this, args)
  const announce = session.announce
  session.announce = function (peer, [first, ...rest]) {
    let { key, length } = first
    if (announced++ === Number(number)) {
      if (kind === 'lose') return
      if (kind === 'repeat') announce.call(this, peer, [first, ...rest])
      if (kind === 'length') length++
      if (kind === 'key') key = Buffer.alloc(32)
    }
    announce.call(this, peer, [{ key, length }, ...rest])
  }
  return session
}
