// The npm originals, from where the interop tests have them.

import { createRequire } from 'node:module'

const require = createRequire(new URL('../../tests/interop/package.json', import.meta.url))

export const SecretStream = require('@hyperswarm/secret-stream')
export const Protomux = require('protomux')
export const Wakeup = require('protomux-wakeup')
export const jitpc = require('jitpc')
export const c = require('compact-encoding')
export const announce = require('protomux-wakeup/spec/hyperschema').getEncoding('@wakeup/announce')
