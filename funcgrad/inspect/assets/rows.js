"use strict";
// Elements and lists. Text of the program only ever becomes text nodes and attributes, never markup.

/** An element with properties, `on…` listeners, attributes and children; null children are left out. */
function make(tag, properties = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "circle", "rect", "text", "title", "marker", "polygon"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** Pieces of Python, coloured. */
const colour = (pieces) => pieces.map(([kind, text]) => (kind ? make("span", { class: `tok-${kind}` }, text) : text));

/** A list of any length that draws only the rows in view; arrow keys move through its live items. */
class Rows {
  /**
   * `draw(item)` gives a row's element, `isLive(item)` says whether it can be picked, `pick(item)` does.
   * `press(event, item)` may take a key first, and says so by returning true.
   */
  constructor(element, { height, draw, isLive = () => true, pick, press = () => false }) {
    Object.assign(this, { element, height, draw, isLive, pick, press, items: [], active: -1, drawn: new Map() });
    this.body = make("div", { class: "rows", role: "presentation" });
    element.append(this.body);
    element.addEventListener("scroll", () => this.fill(), { passive: true });
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("focus", () => this.active < 0 && this.move(0, 1));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      const item = row && this.items[row.dataset.index];
      if (!item || !this.isLive(item)) return;
      this.activate(Number(row.dataset.index));
      this.pick(item);
    });
    new ResizeObserver(() => this.fill()).observe(element);
  }

  /** Show other items; the one that is the `same` as the active one becomes the active one. */
  set(items, same = (a, b) => a === b) {
    const before = this.items[this.active];
    this.items = items;
    this.active = before === undefined ? -1 : items.findIndex((item) => same(item, before));
    this.body.style.height = `${items.length * this.height}px`;
    this.redraw();
  }

  redraw() {
    this.body.replaceChildren();
    this.drawn.clear();
    this.fill();
  }

  fill() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / this.height) - 8);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / this.height) + 8);
    for (const [index, row] of this.drawn) {
      if (index < first || index >= last) {
        row.remove();
        this.drawn.delete(index);
      }
    }
    for (let index = first; index < last; index++) {
      if (this.drawn.has(index)) continue;
      const row = this.draw(this.items[index]);
      row.id = `${this.element.id}-${index}`;
      row.dataset.index = index;
      row.style.top = `${index * this.height}px`;
      row.classList.toggle("active", index === this.active);
      this.drawn.set(index, row);
      this.body.append(row);
    }
    const row = this.drawn.get(this.active);
    if (row) this.element.setAttribute("aria-activedescendant", row.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  activate(index) {
    this.drawn.get(this.active)?.classList.remove("active");
    this.active = index;
    if (index >= 0) this.reveal(index);
    this.drawn.get(index)?.classList.add("active");
    this.fill();
  }

  /** Scroll as little as needed, or to the middle where the row is far away. */
  reveal(index) {
    const top = index * this.height;
    const { scrollTop, clientHeight } = this.element;
    if (top >= scrollTop && top + this.height <= scrollTop + clientHeight) return;
    const near = top > scrollTop - 3 * this.height && top < scrollTop + clientHeight + 3 * this.height;
    const below = top > scrollTop;
    this.element.scrollTop = !near ? top - clientHeight / 3 : below ? top + this.height - clientHeight : top;
  }

  /** From `start` on in the direction `by`, the first live item becomes the active one. */
  move(start, by) {
    for (let index = start; index >= 0 && index < this.items.length; index += by) {
      if (this.isLive(this.items[index])) return this.activate(index);
    }
  }

  key(event) {
    const item = this.items[this.active];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (item !== undefined && this.press(event, item)) return event.preventDefault();
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 1);
    const last = this.items.length - 1;
    const moves = {
      ArrowDown: [this.active + 1, 1],
      ArrowUp: [this.active - 1, -1],
      PageDown: [Math.min(last, this.active + page), -1],
      PageUp: [Math.max(0, this.active - page), 1],
      Home: [0, 1],
      End: [last, -1],
    };
    if (moves[event.key]) this.move(...moves[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && item !== undefined) this.pick(item);
    else return;
    event.preventDefault();
  }
}
