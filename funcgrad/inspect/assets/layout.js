"use strict";
// Where the cards of the graph lie. A scope is never drawn whole if it is large: it is folded into groups that open in
// place, and each scope is laid out by itself.

const CROWD = 24; // more steps than this are grouped by line
const MOST = 80; // as many cards as a scope may show
const CARD = { width: 272, height: 51, row: 21 };
const PILL = { width: 170, height: 28 };
const BOX = { head: 30, pad: 16 };

/** Cuts a list before each member that `starts` something new after the one before it. */
function cut(members, starts) {
  const parts = [];
  for (const member of members) {
    const part = parts.at(-1);
    if (part && !starts(member, part.at(-1))) part.push(member);
    else parts.push([member]);
  }
  return parts;
}

/**
 * The items of a scope: its steps as they run, or if there are too many, groups of neighbours. Steps that one line of
 * the outermost function leads to are neighbours; a line reached again starts the next pass of a loop.
 */
function fold(steps, path) {
  const single = (step) => ({ id: step.id, step, steps: [step], inside: step.children.toReversed() });
  const group = (parts, kind, depth = 0, each = 1, total = parts.length) =>
    parts.map((part, i) =>
      part.length === 1
        ? single(part[0])
        : {
            id: `${path}/${i}`,
            kind,
            depth,
            steps: part,
            inside: part,
            position: [i * each + 1, Math.min(total, (i + 1) * each), total],
          },
    );
  if (steps.length <= CROWD) return steps.map(single);
  let [parts, kind] = [steps.map((step) => [step]), "run"];
  const deepest = steps.reduce((most, step) => Math.max(most, step.frames.length), 0);
  for (let depth = 1; depth <= deepest; depth++) {
    const key = (step) => step.frames.slice(0, depth).join();
    const runs = cut(steps, (step, before) => key(step) !== key(before));
    if (runs.length === 1) continue;
    const first = key(steps[0]);
    const passes = cut(steps, (step, before) => key(step) === first && key(before) !== first);
    [parts, kind] = passes.length > 1 ? [passes, "pass"] : [runs, "line"];
    if (parts.length <= MOST) return group(parts, kind, depth);
    break;
  }
  if (steps.length <= MOST) return steps.map(single);
  const size = Math.ceil(parts.length / Math.min(MOST, Math.ceil(steps.length / MOST)));
  const merged = Array.from({ length: Math.ceil(parts.length / size) }, (_, i) =>
    parts.slice(i * size, (i + 1) * size).flat(),
  );
  return kind === "pass" ? group(merged, "pass", 0, size, parts.length) : group(merged, "run");
}

/** How far to the left of the middle the forward arrow meets a card, and the backward arrow to the right. */
const reach = ({ width }) => Math.min(CARD.width / 4, width / 4);

/** Lays scopes out, each by itself, and remembers what it has laid out. */
class Layout {
  constructor(sizeOf) {
    this.sizeOf = sizeOf;
    this.folded = new Map();
    this.scenes = new Map();
  }

  items(steps, path) {
    if (!this.folded.has(path)) this.folded.set(path, fold(steps, path));
    return this.folded.get(path);
  }

  /** The arguments that steps of a scope read, but for those that show where they are read inside of an open one. */
  pills(items, path, open) {
    const within = (step, parameter) =>
      step.children.some((child) => child.operands.some((x) => x.parameter === parameter) || within(child, parameter));
    const read = new Set();
    for (const { id, step } of items) {
      for (const { parameter } of step?.operands ?? []) {
        if (parameter && !(open.has(id) && within(step, parameter))) read.add(parameter);
      }
    }
    return [...read].map((step) => ({ id: `${path}/${step.id}`, step, steps: [step], inside: [] }));
  }

  /** Where the items of a scope lie, from its corner at 0, 0; those in `open` hold a scene of their own. */
  scene(steps, path, open) {
    const folded = this.items(steps, path);
    const items = [...this.pills(folded, path, open), ...folded];
    const boxes = items.map((item) => {
      const inner = item.inside.length && open.has(item.id) ? this.scene(item.inside, item.id, open) : null;
      if (!inner) return { item, inner, ...this.sizeOf(item) };
      const width = Math.max(CARD.width, inner.width + 2 * BOX.pad);
      return { item, inner, width, height: inner.height + BOX.head + 2 * BOX.pad };
    });
    const key = `${path}|${boxes.map((box) => `${box.item.id} ${box.width} ${box.height}`)}`;
    if (!this.scenes.has(key)) this.scenes.set(key, this.arrange(boxes));
    const { places, links, width, height } = this.scenes.get(key);
    return { boxes: boxes.map((box, i) => ({ ...box, ...places[i] })), links, width, height };
  }

  arrange(boxes) {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "TB", nodesep: 26, ranksep: 40, marginx: 0, marginy: 0 });
    graph.setDefaultEdgeLabel(() => ({}));
    const home = new Map();
    boxes.forEach((box, i) => {
      graph.setNode(String(i), { width: box.width, height: box.height });
      for (const step of box.item.steps) home.set(step.id, i);
    });
    const links = new Map();
    boxes.forEach((box, to) => {
      for (const step of box.item.steps) {
        for (const { from: source, parameter, carries } of step.operands) {
          const from = home.get(source ?? parameter.id);
          if (from === undefined || from === to) continue;
          const name = `${from}>${to}`;
          if (!links.has(name))
            links.set(name, { from: boxes[from].item, to: box.item, ends: [from, to], carries: false });
          links.get(name).carries ||= carries;
          graph.setEdge(String(from), String(to));
        }
      }
    });
    dagre.layout(graph);
    const corner = ({ x, y, width, height }) => ({ x: x - width / 2, y: y - height / 2 });
    const places = boxes.map((_, i) => corner(graph.node(String(i))));
    for (const link of links.values()) {
      const [from, to] = link.ends.map(String);
      // Between neighbouring ranks there is nothing to go around.
      const { points } = graph.edge(from, to);
      const inner = points.length > 3 ? points.slice(1, -1) : [];
      const [a, b] = [graph.node(from), graph.node(to)];
      const down = a.y < b.y ? 1 : -1;
      link.points = [
        { x: a.x, y: a.y + (down * a.height) / 2, reach: reach(a) },
        ...inner.map(({ x, y }) => ({ x, y, reach: 5 })),
        { x: b.x, y: b.y - (down * b.height) / 2, reach: reach(b) },
      ];
    }
    const { width, height } = graph.graph();
    return { places, links: [...links.values()], width: Math.max(width, 0), height: Math.max(height, 0) };
  }
}
