// A process that meets others over jitpc. In come commands, one JSON object a line, see COMMANDS;
// each is answered with one. What happens later is told unasked. See justintime.py, its twin.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

import jitpc from 'jitpc'

let server = null
let client = null

const say = (line) => process.stdout.write(JSON.stringify(line) + '\n')

function serve (client) {
  client.respond('echo', async (params) => params)
  client.respond('who', () => client.id)
  client.respond('fail', (code) => {
    throw Object.assign(new Error('it failed there'), { code })
  })
  client.respond('ask back', ({ method, params }) => client.request(method, params))
  client.respond('later', async (params) => {
    await new Promise((resolve) => setTimeout(resolve, 50))
    return params
  })
}

const SPINDOWNS = {
  off: () => ({ spindown: false }),
  count: () => ({ spindown: () => say({ spun: 'down' }) }),
  fail: () => ({ spindown: () => { throw new Error('spindown failed') } }),
  none: () => ({})
}

const COMMANDS = {
  async listen ({ id, spindown = 'off', seconds = 5 }) {
    server = await jitpc.listen(id, { ...SPINDOWNS[spindown](), spindownTimeout: 1000 * seconds })
    if (server === null) return { listening: false }
    server.on('client', serve)
    server.on('close', () => say({ closed: id }))
    server.on('error', (error) => say({ failed: error.message }))
    return { listening: true }
  },

  // `spinup`: a command that starts a server; `waits`: until that has said something.
  async connect ({ id, spinup = null, waits = false }) {
    let spun = 0
    client = jitpc.connect(id, {
      spinup: async () => {
        spun++
        if (spinup === null) return
        const child = spawn(spinup[0], spinup.slice(1), { stdio: ['pipe', 'pipe', 'inherit'] })
        if (waits) await once(child.stdout, 'data')
        else child.stdout.resume()
      }
    })
    client.respond('double', (number) => 2 * number)
    const [error] = await Promise.race([
      once(client, 'connect').then(() => []),
      new Promise((resolve) => client.on('error', (error) => resolve([error])))
    ])
    return { connected: !error, code: error?.code ?? null, spun }
  },

  async request ({ method, params }) {
    try {
      return { result: await client.request(method, params) }
    } catch ({ message, code, stack }) {
      return { message, code, has_stack: typeof stack === 'string' }
    }
  },

  async long ({ size }) {
    const answer = await client.request('echo', 'x'.repeat(size))
    return { size: answer.length }
  },

  async crowd ({ id, clients, requests }) {
    const asked = []
    for (let number = 0; number < clients; number++) {
      const one = jitpc.connect(id)
      const answers = Array.from({ length: requests }, (_, each) => one.request('echo', each))
      asked.push(Promise.all(answers).then((answers) => {
        one.end()
        return answers.filter((answer, each) => answer === each).length
      }))
    }
    return { answered: (await Promise.all(asked)).reduce((one, other) => one + other) }
  },

  async end_with ({ method, params }) {
    const answer = client.request(method, params)
    await null // it is in flight from the next microtask on, and before that it is not waited for
    await null
    client.end()
    return { result: await answer }
  },

  end () {
    client.end()
    return {}
  }
}

const lines = createInterface({ input: process.stdin })
lines.on('close', () => process.exit(0))
lines.on('line', obey)

async function obey (line) {
  const { do: name, ...options } = JSON.parse(line)
  say(await COMMANDS[name](options))
}

if (process.argv.length > 2) obey(process.argv[2])
else say({ ready: true })
