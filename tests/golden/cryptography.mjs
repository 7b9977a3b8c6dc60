// Hashes, discovery keys, namespaces, key pairs, and the proofs made of them.

import { crypto, fill, hex, pattern, plain, refuses, require, save } from './originals.mjs'

const SecretStream = require('@hyperswarm/secret-stream')
const Wakeup = require('protomux-wakeup')

const SEEDS = [fill(0), fill(1), fill(255), pattern(32)]
const HANDSHAKE_HASHES = [fill(0, 64), fill(0xaa, 64), pattern(64)]

function proofs () {
  const found = []
  // A capability of another size than 32 bytes needs a discovery key of its own.
  for (const capability of [...SEEDS, fill(7, 1), pattern(64)]) {
    const topic = new Wakeup().session(capability, { discoveryKey: fill(9) }).topic
    for (const handshakeHash of HANDSHAKE_HASHES) {
      for (const isInitiator of [true, false]) {
        found.push({
          capability: plain(capability),
          handshake_hash: hex(handshakeHash),
          is_initiator: isInitiator,
          proof: hex(topic._proveCapabilityTo({ isInitiator, handshakeHash }))
        })
      }
    }
  }
  return found
}

export function cryptography () {
  const text = (value) => Buffer.from(value)
  const hashes = [[], [text('')], [text('hypercore')], [text('hyper'), text('core')],
    [fill(1), fill(2), fill(3, 64)], [pattern(128)], [pattern(129)], [pattern(70000), text('end')]]
  const namespaces = [['wakeup', 2], ['hyperswarm/secret-stream', 3], ['', 1], ['gr\u00fc\u00dfe', 4], ['wakeup', 0]]
  const keys = [...SEEDS, fill(0, 31), fill(0, 33), fill(0, 0)]
  save('crypto', ['@hyperswarm/secret-stream', 'hypercore-crypto', 'protomux-wakeup', 'sodium-universal'], {
    hash: hashes.map((parts) => ({ parts: parts.map(plain), hash: hex(crypto.hash(parts)) })),
    discovery_key: keys.filter((key) => key.length === 32)
      .map((key) => ({ key: hex(key), discovery_key: hex(crypto.discoveryKey(key)) })),
    refused_keys: keys.filter((key) => refuses(() => crypto.discoveryKey(key))).map(hex),
    namespace: namespaces.map(([name, count]) => {
      return { name, count, namespace: crypto.namespace(name, count).map(hex) }
    }),
    key_pair: SEEDS.map((seed) => {
      const { publicKey, secretKey } = crypto.keyPair(seed)
      return { seed: hex(seed), public_key: hex(publicKey), secret_key: hex(secretKey) }
    }),
    proof: proofs(),
    stream_id: HANDSHAKE_HASHES.flatMap((hash) => [true, false].map((isInitiator) => ({
      handshake_hash: hex(hash),
      is_initiator: isInitiator,
      id: hex(SecretStream.id(hash, isInitiator))
    })))
  })
}
