// What came in, for one who waits for it.

export class Inbox {
  items = []
  #wake = null

  push (item) {
    this.items.push(item)
    this.#wake?.()
  }

  // The next `count` items; waits until there are as many.
  async take (count) {
    while (this.items.length < count) {
      await new Promise((resolve) => { this.#wake = resolve })
    }
    return this.items.splice(0, count)
  }

  async next () {
    return (await this.take(1))[0]
  }
}

export function deferred () {
  const it = {}
  it.promise = new Promise((resolve) => { it.resolve = resolve })
  return it
}
