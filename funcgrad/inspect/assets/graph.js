"use strict";
// The graph: cards and arrows, of which only what is in view is in the document.

/** A smooth path from card to card; `side` is -1 for the forward arrow, 1 for the backward one, which goes up. */
function curve(points, side, dx, dy) {
  const at = points.map((p) => ({ x: p.x + dx + side * p.reach, y: p.y + dy }));
  if (side > 0) at.reverse();
  const way = Math.sign(at.at(-1).y - at[0].y) || 1;
  at.at(-1).y -= way * 7; // room for the arrow's tip
  let path = `M${at[0].x} ${at[0].y}`;
  for (let i = 1; i < at.length; i++) {
    const [a, b] = [at[i - 1], at[i]];
    const half = (a.y + b.y) / 2;
    path += `C${a.x} ${half} ${b.x} ${half} ${b.x} ${b.y}`;
  }
  return path;
}

function spanOf(points, x, y) {
  const xs = points.map((p) => p.x);
  const ys = points.map((p) => p.y);
  return {
    left: x + Math.min(...xs) - 80,
    right: x + Math.max(...xs) + 80,
    top: y + Math.min(...ys),
    bottom: y + Math.max(...ys),
  };
}

class GraphView {
  /** `draw(item, isOpen)` gives a card's element, `sizeOf(item)` its width and height, `pick` and `toggle` take an item. */
  constructor(element, { steps, draw, sizeOf, pick, toggle }) {
    Object.assign(this, { element, steps, draw, pick, toggle });
    this.layout = new Layout(sizeOf);
    this.camera = { x: 0, y: 0, k: 1 };
    this.cards = new Map();
    this.paths = new Map();
    this.marks = { on: () => false, dim: () => false };
    this.current = null;
    this.under = make("div", { class: "world", role: "presentation" });
    this.over = make("div", { class: "world", role: "presentation" });
    this.group = make("g");
    const tip = (id, name) =>
      make(
        "marker",
        {
          id,
          viewBox: "0 0 8 8",
          refX: 1,
          refY: 4,
          markerWidth: 8,
          markerHeight: 8,
          markerUnits: "userSpaceOnUse",
          orient: "auto",
        },
        make("path", { d: "M0 .5 7.5 4 0 7.5Z", class: name }),
      );
    this.wires = make("svg", { "aria-hidden": "true" }, tip("tip-f", "tip-f"), tip("tip-b", "tip-b"), this.group);
    element.prepend(this.under, this.wires, this.over);
    this.listen();
    new ResizeObserver(() => this.paint()).observe(element);
  }

  /** Lay out what is open; everything stays where it was on the screen around `anchor`, an item's id. */
  arrange(open, anchor) {
    const before = anchor && this.boxes?.get(anchor);
    const scene = this.layout.scene(this.steps, "", open);
    this.size = { width: scene.width, height: scene.height };
    this.boxes = new Map();
    this.links = [];
    this.flatten(scene, 0, 0, null);
    const after = before && this.boxes.get(anchor);
    if (after)
      this.camera = {
        ...this.camera,
        x: this.camera.x + (before.x - after.x) * this.camera.k,
        y: this.camera.y + (before.y - after.y) * this.camera.k,
      };
    if (!this.boxes.has(this.current)) this.current = this.boxes.keys().next().value ?? null;
    for (const element of [this.under, this.over, this.group]) element.replaceChildren();
    this.cards.clear();
    this.paths.clear();
    this.paint();
  }

  /** The ids of the cards that must be open for the card of a step to show. */
  wayTo(step) {
    const way = [];
    const chain = [step];
    while (chain[0].parent) chain.unshift(chain[0].parent);
    let scope = [this.steps, ""];
    while (chain.length) {
      const item = this.layout.items(...scope).find(({ steps }) => steps.includes(chain[0]));
      if (!item) return way;
      if (item.step) chain.shift();
      if (chain.length) way.push(item.id);
      scope = [item.inside, item.id];
    }
    return way;
  }

  flatten(scene, x, y, parent) {
    for (const link of scene.links)
      this.links.push({ ...link, x, y, name: `${link.from.id}>${link.to.id}`, ...spanOf(link.points, x, y) });
    for (const box of scene.boxes) {
      const placed = { ...box, x: x + box.x, y: y + box.y, parent };
      this.boxes.set(box.item.id, placed);
      if (box.inner) {
        const margin = (box.width - box.inner.width) / 2;
        this.flatten(box.inner, placed.x + margin, placed.y + BOX.head + BOX.pad, placed);
      }
    }
  }

  /** Put what is in view into the document and take the rest out. */
  paint() {
    if (!this.boxes) return;
    const { x, y, k } = this.camera;
    const transform = `translate(${x}px, ${y}px) scale(${k})`;
    this.under.style.transform = this.over.style.transform = transform;
    this.group.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
    this.element.classList.toggle("far", k < 0.5);
    const margin = 80;
    const view = {
      left: (-x - margin) / k,
      top: (-y - margin) / k,
      right: (this.element.clientWidth - x + margin) / k,
      bottom: (this.element.clientHeight - y + margin) / k,
    };
    for (const [id, box] of this.boxes) {
      const seen =
        box.x < view.right && box.x + box.width > view.left && box.y < view.bottom && box.y + box.height > view.top;
      this.keep(this.cards, id, seen, () => this.card(box));
      // The head of an open card stays in sight.
      if (seen && box.inner)
        this.cards.get(id).style.paddingLeft =
          `${Math.min(Math.max(10, 10 + (16 - x) / k - box.x), box.width - 200)}px`;
    }
    for (const link of this.links) {
      const seen = link.left < view.right && link.right > view.left && link.top < view.bottom && link.bottom > view.top;
      this.keep(this.paths, link.name, seen, () => this.link(link));
    }
  }

  keep(drawn, name, seen, create) {
    if (seen === drawn.has(name)) return;
    if (seen) return drawn.set(name, create());
    drawn.get(name).remove();
    drawn.delete(name);
  }

  card(box) {
    const card = this.draw(box.item, Boolean(box.inner));
    card.dataset.id = box.item.id;
    card.tabIndex = box.item.id === this.current ? 0 : -1;
    Object.assign(card.style, {
      left: `${box.x}px`,
      top: `${box.y}px`,
      width: `${box.width}px`,
      height: `${box.height}px`,
    });
    (box.inner ? this.under : this.over).append(card);
    this.mark(card, box.item);
    return card;
  }

  link(link) {
    const drawn = make("g");
    const one = (flow, side) =>
      make("path", {
        d: curve(link.points, side, link.x, link.y),
        class: `link ${flow}`,
        "marker-end": `url(#tip-${flow})`,
      });
    drawn.append(one("f", -1));
    if (link.carries) drawn.append(one("b", 1));
    this.group.append(drawn);
    this.markLink(drawn, link);
    return drawn;
  }

  /** Say which items are selected and which are out of what is searched for: two functions of an item. */
  show(marks) {
    this.marks = marks;
    for (const [id, card] of this.cards) this.mark(card, this.boxes.get(id).item);
    for (const link of this.links) if (this.paths.has(link.name)) this.markLink(this.paths.get(link.name), link);
  }

  mark(card, item) {
    const on = this.marks.on(item);
    card.classList.toggle("on", on);
    card.setAttribute("aria-pressed", on);
    card.classList.toggle("dim", this.marks.dim(item));
  }

  markLink(drawn, link) {
    const on = (item) => this.marks.on(item) && !this.boxes.get(item.id).inner;
    drawn.classList.toggle("on", on(link.from) || on(link.to));
    drawn.classList.toggle("dim", this.marks.dim(link.from) || this.marks.dim(link.to));
  }

  // The camera.

  fit() {
    const { clientWidth, clientHeight } = this.element;
    // What does not fit is better read in part than seen whole.
    const k = Math.max(0.8, Math.min(1, (clientWidth - 32) / this.size.width));
    const y = this.size.height * k < clientHeight ? (clientHeight - this.size.height * k) / 2 : 24;
    const last = [...this.boxes.values()].reduce((a, b) => (!b.parent && (!a || b.y > a.y) ? b : a), null);
    const middle = this.size.width * k < clientWidth ? this.size.width / 2 : last.x + last.width / 2;
    this.camera = { k, x: clientWidth / 2 - middle * k, y };
    this.paint();
  }

  zoom(factor, px = this.element.clientWidth / 2, py = this.element.clientHeight / 2) {
    const k = Math.min(2, Math.max(0.04, this.camera.k * factor));
    const ratio = k / this.camera.k;
    this.camera = { k, x: px - (px - this.camera.x) * ratio, y: py - (py - this.camera.y) * ratio };
    this.paint();
  }

  /** Move the graph, but never all of it out of sight. */
  pan(dx, dy) {
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
    const { clientWidth, clientHeight } = this.element;
    this.camera.x = clamp(this.camera.x + dx, 60 - this.size.width * this.camera.k, clientWidth - 60);
    this.camera.y = clamp(this.camera.y + dy, 60 - this.size.height * this.camera.k, clientHeight - 60);
    this.paint();
  }

  /** Move sideways to the first steps of a scope that has been opened. */
  enter(id) {
    const inner = this.boxes.get(id)?.inner;
    if (!inner) return;
    const first = inner.boxes.filter(({ width }) => width > PILL.width).reduce((a, b) => (b.y < a.y ? b : a));
    const { x, width } = this.boxes.get(first.item.id);
    const left = x * this.camera.k + this.camera.x;
    const right = left + width * this.camera.k;
    if (left < 16 || right > this.element.clientWidth - 16)
      this.camera.x += (this.element.clientWidth - left - right) / 2;
    this.paint();
  }

  /** Bring the card of an item into view, if it is not. */
  reveal(id) {
    const box = this.boxes.get(id);
    if (!box) return;
    const { clientWidth, clientHeight } = this.element;
    if (this.camera.k < 0.5) this.camera = { ...this.camera, k: 0.8 };
    const { x, y, k } = this.camera;
    const [left, top] = [box.x * k + x, box.y * k + y];
    const height = Math.min(box.height * k, clientHeight - 40);
    const outX = left < 8 || left + Math.min(box.width * k, clientWidth - 16) > clientWidth - 8;
    const outY = top < 8 || top + height > clientHeight - 8;
    if (outX) this.camera.x += clientWidth / 2 - (left + (box.width * k) / 2);
    if (outY) this.camera.y += (clientHeight - height) / 2 - top;
    this.paint();
  }

  focus(id) {
    this.reveal(id);
    this.cards.get(this.current)?.setAttribute("tabindex", "-1");
    this.current = id;
    const card = this.cards.get(id);
    card?.setAttribute("tabindex", "0");
    card?.focus({ preventScroll: true });
  }

  // Hands.

  listen() {
    const held = new Map();
    let moved = false;
    const on = (type, listener, options) => this.element.addEventListener(type, listener, options);
    on("pointerdown", (event) => {
      if (event.button !== 0 || event.target.closest(".zoom")) return;
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
      moved = false;
    });
    on("pointermove", (event) => {
      const last = held.get(event.pointerId);
      if (!last) return;
      const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
      if (!moved && Math.hypot(dx, dy) < 4) return;
      if (!moved) this.element.setPointerCapture(event.pointerId);
      moved = true;
      this.element.classList.add("moving");
      if (held.size === 2) this.pinch(event, held);
      else this.pan(dx, dy);
      held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    const release = (event) => {
      held.delete(event.pointerId);
      this.element.classList.remove("moving");
    };
    on("pointerup", release);
    on("pointercancel", release);
    on("click", (event) => {
      if (moved) return;
      const item = this.boxes.get(event.target.closest(".card")?.dataset.id)?.item;
      if (!item) return;
      this.current = item.id;
      if (event.target.closest(".knob")) this.toggle(item);
      else this.pick(item);
    });
    on("dblclick", (event) => {
      const item = this.boxes.get(event.target.closest(".card")?.dataset.id)?.item;
      if (item?.inside.length && !event.target.closest(".knob")) this.toggle(item);
    });
    on(
      "wheel",
      (event) => {
        event.preventDefault();
        const bounds = this.element.getBoundingClientRect();
        if (event.ctrlKey || event.metaKey)
          this.zoom(Math.exp(-event.deltaY * 0.01), event.clientX - bounds.x, event.clientY - bounds.y);
        else {
          const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 18 : 1;
          this.pan(-event.deltaX * unit, -event.deltaY * unit);
        }
      },
      { passive: false },
    );
    on("keydown", (event) => this.key(event));
    on("scroll", () => this.element.scrollTo(0, 0)); // focus may scroll what is clipped
  }

  pinch(event, held) {
    const other = [...held].find(([id]) => id !== event.pointerId)[1];
    const last = held.get(event.pointerId);
    const apart = (p) => Math.hypot(p.x - other.x, p.y - other.y);
    const bounds = this.element.getBoundingClientRect();
    this.zoom(
      apart({ x: event.clientX, y: event.clientY }) / Math.max(1, apart(last)),
      other.x - bounds.x,
      other.y - bounds.y,
    );
  }

  key(event) {
    const box = this.boxes.get(event.target.closest?.(".card")?.dataset.id);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (!box) return;
    else if (event.key === "Enter") this.pick(box.item);
    else if (event.key === " " && box.item.inside.length) this.toggle(box.item, true);
    else if (event.key === " ") this.pick(box.item);
    else if (event.key.startsWith("Arrow")) {
      const next = this.neighbour(box, event.key);
      if (next) this.focus(next.item.id);
    } else return;
    event.preventDefault();
  }

  /** The nearest card in a direction; down from an open card leads into it. */
  neighbour(box, key) {
    if (key === "ArrowDown" && box.inner)
      return this.boxes.get(box.inner.boxes.toSorted((a, b) => a.y - b.y)[0].item.id);
    const [dx, dy] = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[key];
    const middle = (b) => [b.x + b.width / 2, b.y + (b.inner ? BOX.head / 2 : b.height / 2)];
    const [x, y] = middle(box);
    let best = null;
    let least = Infinity;
    for (const other of this.boxes.values()) {
      if (other === box) continue;
      const [ox, oy] = middle(other);
      const along = (ox - x) * dx + (oy - y) * dy;
      const across = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx);
      if (along < 4) continue;
      const cost = along + 2.5 * across;
      if (cost < least) [best, least] = [other, cost];
    }
    return best;
  }
}
