// The client asks over a jitpc socket: one request at a time, then many in flight. See jitpc.py.

import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { jitpc } from './originals.mjs'
import { fail, now, say } from './talk.mjs'

const idOf = (pid) => `protomux-bench-${pid}`

class Asker {
  count = 0
  total = 0
  #client

  constructor (client) {
    this.#client = client
  }

  async oneByOne (count) {
    for (let x = 0; x < count; x++) this.#note(await this.#client.request('echo', { x }), x)
  }

  async atOnce (count, most) {
    for (let first = 0; first < count; first += most) {
      const asked = []
      for (let x = first; x < Math.min(first + most, count); x++) {
        asked.push(this.#client.request('echo', { x }))
      }
      for (let index = 0; index < asked.length; index++) {
        this.#note(await asked[index], first + index)
      }
    }
  }

  #note (answer, number) {
    if (answer.x !== number) fail(`expected ${number} again, got ${JSON.stringify(answer)}`)
    this.count++
    this.total += number
  }
}

export async function client (talk) {
  const { count, warm, times, at_once: most } = talk.size
  const connected = jitpc.connect(idOf(talk.port))
  const asker = new Asker(connected)
  await connected.open()
  await talk.sync('ready')
  await asker.oneByOne(warm)
  await asker.atOnce(warm * times, most)
  await talk.sync('warming is over')
  asker.count = asker.total = 0
  await talk.sync('warm')
  talk.begin()
  const began = now()
  await asker.oneByOne(count)
  const between = now()
  await asker.atOnce(count * (times - 1), most)
  const ended = now()
  await talk.sync('done')
  talk.end()
  connected.end()
  talk.finish(asker.count, asker.total, {
    'jitpc sequential': count / ((between - began) / 1e9),
    'jitpc pipelined': count * (times - 1) / ((ended - between) / 1e9)
  })
}

export async function listener (talk) {
  let count = 0
  let total = 0
  const id = idOf(process.pid)
  const server = await jitpc.listen(id, { spindown: false })
  server.on('client', (client) => client.respond('echo', (params) => {
    count++
    total += params.x
    return params
  }))
  say({ port: process.pid })
  await talk.sync('ready')
  await talk.sync('warming is over')
  count = total = 0
  await talk.sync('warm')
  talk.begin()
  await talk.sync('done')
  talk.end()
  server.close()
  rmSync(join(tmpdir(), `${id}.lock`))
  talk.finish(count, total)
}
