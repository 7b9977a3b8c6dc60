// Wakeups: topics, proofs, lookups, announces, infos. Steps are those of `harness/wakeup.py`.

import { fill, require } from '../../tests/golden/originals.mjs'
import { talk } from './talk.mjs'

const Protomux = require('protomux')
const Wakeup = require('protomux-wakeup')

const [SESSION, ACT, DESTROY, ADD_STREAM, WHEN_WOKEN] = [3, 4, 7, 9, 15]
const TOPICS = [[fill(1)], [fill(2), fill(6)], [fill(3)]]
const WRONG = fill(4)
const [KNOWN, NAMED] = [0, 1]
const [ACTIVE, INACTIVE, LOOKUP, LOOKUP_HASH, ANNOUNCE, ANNOUNCE_ONE, END] = [0, 1, 2, 3, 4, 5, 6]
const NOT_ADDED = 16

class Side {
  constructor (stream) {
    this.stream = stream
    this.woken = null
    this.sessions = []
    this.wakeup = new Wakeup((id) => {
      if (this.woken !== null) this.session(this.woken)
    })
    Protomux.from(stream)
  }

  add () {
    this.wakeup.addStream(this.stream)
    return [ADD_STREAM]
  }

  session (topic, flags = 0, isWrong = false) {
    const [capability, discoveryKey] = TOPICS[topic]
    const ignore = () => {}
    this.sessions.push(this.wakeup.session(isWrong ? WRONG : capability, {
      active: !flags, discoveryKey, onannounce: ignore, onlookup: ignore
    }))
    return [SESSION, topic, flags, 0]
  }

  wake (topic) {
    this.woken = topic
    return [WHEN_WOKEN, 1]
  }

  act (index, what) {
    const session = this.sessions[index]
    if (what === ACTIVE) session.active()
    else if (what === INACTIVE) session.inactive()
    else if (what === LOOKUP) session.broadcastLookup({ hash: null })
    else if (what === LOOKUP_HASH) session.lookupByStream(this.stream, { hash: fill(0) })
    else if (what === ANNOUNCE) for (const peer of session.peers) session.announce(peer, [writer(0, 1), writer(1, 7)])
    else if (what === ANNOUNCE_ONE) session.announceByStream(this.stream, [writer(5, 70000)])
    else session.destroy()
    return [ACT, index, what]
  }

  destroy () {
    this.wakeup.destroy()
    return [DESTROY]
  }

  end () {
    this.wakeup.destroy()
  }
}

const writer = (byte, length) => ({ key: fill(byte), length })
const both = (...call) => [[0, ...call], [1, ...call]]

const TALKS = {
  'both have a session': [both('session', KNOWN), both('add'), [[0, 'act', 0, LOOKUP]], [[1, 'act', 0, ANNOUNCE]],
    both('act', 0, LOOKUP_HASH), both('act', 0, ANNOUNCE_ONE), [[1, 'act', 0, INACTIVE]], [[1, 'act', 0, ACTIVE]],
    [[0, 'act', 0, INACTIVE]], [[1, 'destroy']]],
  'one side knows nothing': [both('add'), [[0, 'session', KNOWN], [0, 'act', 0, LOOKUP]], [[1, 'session', KNOWN]],
    both('act', 0, ANNOUNCE)],
  'woken': [both('add'), [[1, 'wake', KNOWN]], [[0, 'session', KNOWN], [0, 'act', 0, LOOKUP]],
    [[1, 'act', 0, ANNOUNCE]], [[0, 'act', 0, END]]],
  'one side is inactive': [[[1, 'session', KNOWN, 1]], both('add'), [[0, 'session', KNOWN]], [[0, 'act', 0, INACTIVE]],
    [[1, 'act', 0, ACTIVE]], [[1, 'act', 0, END]]],
  'two topics at once': [both('add'), [...both('session', KNOWN), ...both('session', NAMED)], both('act', 1, ANNOUNCE),
    both('act', 0, LOOKUP)],
  'two sessions of a topic': [both('add'), [...both('session', KNOWN, 1), ...both('session', KNOWN)],
    both('act', 1, INACTIVE), both('act', 0, ACTIVE), both('act', 0, END)],
  'the wrong capability': [[[0, 'session', NAMED]], both('add'), [[1, 'session', NAMED, 0, true]],
    [[0, 'act', 0, LOOKUP]]],
  'the wrong capability, first': [both('add'), [[1, 'session', NAMED, 0, true], [1, 'act', 0, LOOKUP]],
    [[0, 'session', NAMED]]]
}

export async function wakeup () {
  const frames = []
  for (const [name, calls] of Object.entries(TALKS)) {
    frames.push(...await talk('wakeup', name, calls, (stream) => new Side(stream), NOT_ADDED))
  }
  return frames
}
