// Lists that change while somebody reads them: what stays is not touched. Knows no content.

/** A copy of the first element of a template. */
export function copy(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** Says `text`; what is there already is not written again, or a selection would be lost. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Has `list` hold `elements` in that order; who has the focus keeps it. */
export function arrange(list, elements) {
  const focused = document.activeElement;
  const wanted = new Set(elements);
  for (const child of [...list.children]) {
    if (!wanted.has(child)) child.remove();
  }
  elements.forEach((element, place) => {
    if (list.children[place] !== element) list.insertBefore(element, list.children[place] ?? null);
  });
  if (focused !== document.activeElement && list.contains(focused)) {
    focused.focus({ preventScroll: true });
  }
}

/** A list with one element for each item, by the item's name. */
export class Cards {
  #list;
  #make;
  #fill;
  #elements = new Map();

  constructor(list, make, fill) {
    this.#list = list;
    this.#make = make;
    this.#fill = fill;
  }

  show(items) {
    const elements = new Map();
    for (const [name, item] of items) {
      const element = this.#elements.get(name) ?? this.#make();
      this.#fill(element, item);
      elements.set(name, element);
    }
    this.#elements = elements;
    arrange(this.#list, [...elements.values()]);
  }
}
