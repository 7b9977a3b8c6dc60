// The Node side of one interop case: `node peer.mjs MODULE/CASE`.
//
// It speaks JSON lines with the harness. The first line in is {initiator, opener, deadline,
// ...choices}, said of this side; {port} follows where this side dials. Lines out are {port}, where
// it listens, and {verdict, error, seen} at the end. {sync, data} goes both ways. It ends when stdin
// does, or `deadline` seconds after its start.

import { createInterface } from 'node:readline'
import { inspect } from 'node:util'

import { Twin } from './twin.mjs'

let twin = null
let said = false

function say (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

function verdict (error) {
  if (said) return
  said = true
  say({
    verdict: error ? 'failed' : 'ok',
    error: error ? (error.stack || inspect(error)).slice(0, 4000) : null,
    seen: twin ? twin.seen : null
  })
}

process.on('uncaughtException', verdict)
process.on('unhandledRejection', verdict)

const [module, name] = process.argv[2].split('/')
const { [name]: run } = await import(`./cases/${module}.mjs`)

const lines = createInterface({ input: process.stdin })

lines.on('line', (text) => {
  const line = JSON.parse(text)
  if (twin !== null) return twin.heard(line)
  twin = new Twin(line, say)
  setTimeout(() => {
    verdict(new Error('past the deadline'))
    process.exit(3)
  }, line.deadline * 1000).unref()
  if (!run) return verdict(new Error(`cases/${module}.mjs has no case ${name}`))
  run(twin).then(() => verdict(null), verdict)
})

lines.on('close', () => {
  if (!said) process.stderr.write(`no verdict yet; seen: ${inspect(twin?.seen)}\n`)
  process.exit(0)
})
