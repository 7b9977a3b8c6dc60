// Jamsocket's part in a conversation about session backends, by the checks of @jamsocket/types. It
// asks as Jamsocket's libraries do: the path and the headers are theirs, and so is how a stream of
// states is read, which is less than what the standard has. See test_backends.py.
//
//   check                            {"kind", "text"} a line: {"ok"} a line
//   connect BASE TOKEN A/S REQUEST   as @jamsocket/server: asks for a backend, says what it got
//   status BASE ID                   likewise: says in which state it is
//   follow BASE ID                   likewise: says each state, until it has ended
//   client STATUS_URL                as @jamsocket/client, which has no more than that address

import { createInterface } from 'node:readline'

import { HTTPError, isBackendState, isConnectResponse } from '@jamsocket/types'

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

const noCache = () => Math.random().toString(36).slice(2)

async function ask (url, options) {
  const response = await fetch(url, options)
  if (!response.ok) throw new HTTPError(response.status, await response.text())
  return response
}

async function parse (check, response) {
  const value = JSON.parse(await response.text())
  if (!check(value)) throw new Error(`not what it has to be: ${JSON.stringify(value)}`)
  return value
}

// Returns when it has ended or was cut. A piece is taken as whole lines: an event that comes in two
// pieces is lost.
async function follow (url, seen) {
  const reader = (await ask(url)).body.pipeThrough(new TextDecoderStream()).getReader()
  while (true) {
    const { value: piece, done } = await reader.read().catch(() => ({ done: true }))
    if (done) return
    for (const line of piece.split('\n')) {
      if (!line.trim().startsWith('data:')) continue
      const state = JSON.parse(line.trim().slice(5))
      if (!isBackendState(state)) throw new Error(`no state: ${line}`)
      if (seen.has(state.status)) continue
      seen.add(state.status)
      say(state)
    }
    if (seen.has('terminated')) return reader.cancel()
  }
}

const COMMANDS = {
  async check () {
    for await (const line of createInterface({ input: process.stdin })) {
      const { kind, text } = JSON.parse(line)
      say({ ok: (kind === 'state' ? isBackendState : isConnectResponse)(JSON.parse(text)) })
    }
  },

  async connect (base, token, service, request) {
    const response = await ask(`${base}/v2/service/${service}/connect?${noCache()}`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      body: request
    })
    say(await parse(isConnectResponse, response))
  },

  async status (base, id) {
    say(await parse(isBackendState, await ask(`${base}/v2/backend/${id}/status?${noCache()}`)))
  },

  async follow (base, id) {
    const seen = new Set()
    for (let tries = 0; tries < 4 && !seen.has('terminated'); tries++) {
      await follow(`${base}/v2/backend/${id}/status/stream?${noCache()}`, seen)
    }
  },

  async client (statusUrl) {
    const seen = new Set()
    while (!seen.has('terminated')) {
      const state = await parse(isBackendState, await ask(`${statusUrl}?${noCache()}`))
      if (state.status === 'terminated' && seen.size === 0) return say(state)
      await follow(`${statusUrl}/stream?${noCache()}}`, seen) // that brace is the original's
    }
  }
}

const [command, ...args] = process.argv.slice(2)
try {
  await COMMANDS[command](...args)
  process.exit() // its connections would keep it for some seconds
} catch (error) {
  say({ error: error.message, code: error.code ?? null })
  process.exit(1)
}
