"use strict";
// The page: one state, and panes that show it. Whatever is done ends in `update`, which draws what changed.

const byId = (id) => document.getElementById(id);
const model = new Model(JSON.parse(byId("report").textContent));

const state = {
  chosen: null, // { title, steps, frame, line }: the steps of a line, a card, an argument or a finding
  step: null, // the step whose details show, or a parameter
  query: "",
  expanded: new Set(), // ids of steps that show theirs in the list
  opened: new Set(), // ids of cards that show theirs in the graph
  gaps: new Set(), // ids of gaps in the source that were opened
};

function update(change) {
  Object.assign(state, change);
  for (let p = change.step?.parent; p; p = p.parent) state.expanded.add(p.id);
  if ("query" in change) found = state.query ? model.search(state.query) : null;
  drawSource();
  drawSteps();
  drawGraph();
  drawDetails();
  byId("found").textContent = found ? `${count(found.size)} of ${count(model.steps.length)}` : "";
  byId("slash").hidden = Boolean(state.query);
}

const ofLine = (line) => ({ title: line.place, frame: line.frame, line, steps: line.steps });
const chooseLine = (line) => update({ chosen: ofLine(line), step: null });
const chooseSteps = (title, steps) => update({ chosen: { title, steps }, step: null });
const chooseStep = (step) => update({ step });
/** A step or an argument picked outside of the list, which comes to show its line's steps or those that read it. */
function goTo(step) {
  if (step instanceof Parameter)
    update({ chosen: step.steps.length ? { title: step.name, steps: step.steps } : null, step });
  else update({ chosen: step.line ? ofLine(step.line) : null, step });
}
const chooseNothing = () => update({ chosen: null, step: null });

// The source.

const source = new Rows(byId("source"), {
  height: 21,
  isLive: (row) => row.kind === "gap" || row.steps?.length > 0,
  pick: pickRow,
  draw: drawRow,
});

let found = null; // the steps that match the query, null without one

function openSource(gaps) {
  state.gaps = gaps;
  const rows = model.rows(gaps);
  const lengthOf = (row) => (row.tokens ?? []).reduce((sum, [, text]) => sum + text.length, 0);
  const longest = rows.reduce((most, row) => Math.max(most, lengthOf(row)), 0);
  source.body.style.width = `calc(${longest + 4}ch + 200px)`;
  source.set(rows);
}

function drawSource() {
  source.redraw();
  const frame = currentFrame();
  if (frame) source.activate(source.items.findIndex((row) => row.frame === frame));
}

/** The place of what is selected, as rows of the source have it. */
const currentFrame = () => state.step?.line?.frame ?? state.chosen?.frame ?? null;

function pickRow({ kind, frame, number, line, steps }) {
  if (kind === "gap") openSource(new Set([...state.gaps, frame]));
  else if (line) chooseLine(line);
  else update({ chosen: { title: `called on line ${number}`, frame, steps }, step: null });
}

function drawRow(row) {
  if (row.kind === "file") return make("div", { class: "row file", role: "presentation", title: row.title }, row.text);
  if (row.kind === "gap") {
    const text = `⋯ ${plural(row.lines, "line")}`;
    return make("div", { class: "row live gap", role: "option", "aria-selected": "false" }, text);
  }
  const { line, steps, frame } = row;
  const dim = found && !steps.some((step) => found.has(step)) ? " dim" : "";
  const parts = [
    make("span", { class: "number" }, String(row.number)),
    line ? cell("norm", line.norm) : make("span", { class: "cell" }),
    line ? cell("kept", line.kept) : make("span", { class: "cell" }),
    make("span", { class: "code" }, colour(row.tokens)),
  ];
  if (!steps.length) return make("div", { class: `row${dim}`, role: "presentation" }, parts);
  const title = `${line ? "" : "leads to "}${plural(steps.length, "step")}`;
  const selected = String(frame === currentFrame());
  return make("div", { class: `row live${dim}`, role: "option", "aria-selected": selected, title }, parts);
}

// The steps: a tree, where what is searched for or chosen keeps the steps around it in sight.

const steps = new Rows(byId("steps"), {
  height: 26,
  pick: ({ step }) => chooseStep(step),
  press: pressStep,
  draw: drawStep,
});

function drawSteps() {
  const rows = [];
  const wanted = state.chosen && new Set(state.chosen.steps);
  const narrowed = Boolean(found || wanted);
  const shown = model.steps.filter((step) => (!found || found.has(step)) && (!wanted || wanted.has(step)));
  const hits = new Set(shown);
  const around = new Set();
  if (narrowed) for (const step of shown) for (let p = step.parent; p && !around.has(p); p = p.parent) around.add(p);
  const isOpen = (step) => around.has(step) || state.expanded.has(step.id);
  const visit = (members) => {
    for (const step of members) {
      if (narrowed && !hits.has(step) && !around.has(step)) continue;
      rows.push({ step, hit: hits.has(step), open: isOpen(step) });
      if (step.children.length && isOpen(step)) visit(step.children);
    }
  };
  visit(model.roots);
  steps.set(rows, (a, b) => a.step === b.step);
  const at = state.step ? rows.findIndex((row) => row.step === state.step) : -1;
  if (at >= 0) steps.activate(at);
  byId("chosen").replaceChildren(...(state.chosen ? [make("code", {}, state.chosen.title)] : []));
  byId("all-steps").hidden = !state.chosen;
  byId("step-count").textContent = narrowed
    ? `${count(shown.length)} of ${count(model.steps.length)}`
    : count(model.steps.length);
  byId("order").hidden = narrowed;
  byId("steps").style.height = `${rows.length * steps.height}px`;
  byId("no-steps").hidden = rows.length > 0;
}

function drawStep({ step, hit, open }) {
  const troubles = step.flags.filter(({ severity }) => severity !== "info");
  const twist = make("span", { class: "twist", "aria-hidden": "true" }, step.children.length ? (open ? "▾" : "▸") : "");
  if (step.children.length) twist.addEventListener("click", (event) => (event.stopPropagation(), expand(step, !open)));
  return make(
    "div",
    {
      class: `row live${hit ? "" : " dim"}`,
      role: "treeitem",
      "aria-level": step.depth + 1,
      "aria-expanded": step.children.length ? String(open) : null,
      "aria-selected": String(step === state.step),
      style: { paddingLeft: `${8 + 16 * step.depth}px` },
    },
    twist,
    make("span", { class: "name" }, step.name),
    make("span", { class: "formula", title: step.formula }, step.formula),
    troubles.length > 0 &&
      make("span", { class: "flag", title: troubles.map(({ message }) => message).join("\n") }, "!"),
    cell("norm", step.norm),
    cell("kept", step.kept),
  );
}

function expand(step, open) {
  if (open) state.expanded.add(step.id);
  else state.expanded.delete(step.id);
  update({});
}

function pressStep({ key }, { step, open }) {
  if (key === "ArrowRight" && step.children.length && !open) expand(step, true);
  else if (key === "ArrowRight" && open) steps.move(steps.active + 1, 1);
  else if (key === "ArrowLeft" && open && state.expanded.has(step.id)) expand(step, false);
  else if (key === "ArrowLeft" && step.parent) steps.activate(steps.items.findIndex((row) => row.step === step.parent));
  else return false;
  return true;
}

// The graph.

const graph = new GraphView(byId("canvas"), {
  steps: model.roots.toReversed(),
  sizeOf: ({ step, steps }) =>
    step instanceof Parameter
      ? PILL
      : { width: CARD.width, height: CARD.height + (steps.some((x) => x.kept.bytes) ? CARD.row : 0) },
  draw: drawCard,
  pick: pickItem,
  toggle: toggleItem,
});

function pickItem(item) {
  const frame = item.kind === "line" ? item.steps[0].frames[item.depth - 1] : null;
  if (item.step) goTo(item.step);
  else update({ chosen: { title: describe(item).title, frame, steps: item.steps }, step: null });
}

function toggleItem(item, focus) {
  const opened = new Set(state.opened);
  if (!opened.delete(item.id)) opened.add(item.id);
  state.opened = opened;
  graph.arrange(opened, item.id);
  graph.enter(item.id);
  if (focus) graph.focus(item.id);
}

function drawGraph() {
  const chosen =
    state.step instanceof Step ? [state.step] : [state.step, ...(state.chosen?.steps ?? [])].filter(Boolean);
  const touched = model.withParents(chosen);
  const seen = found && model.withParents(found);
  graph.show({
    on: (item) => item.steps.some((step) => touched.has(step)),
    dim: (item) => Boolean(seen) && !item.steps.some((step) => seen.has(step)),
  });
  const target = chosen.find((step) => graph.boxes.has(step.id)) ?? chosen.at(-1);
  if (!target) return;
  const way = graph.wayTo(target);
  const closed = way.find((id) => !state.opened.has(id));
  if (state.step && closed) {
    state.opened = new Set([...state.opened, ...way]);
    graph.arrange(state.opened, closed);
  }
  graph.reveal(state.step ? target.id : (closed ?? target.id));
}

const span = (first, last) => (first === last ? count(first) : `${count(first)}–${count(last)}`);

/** What a card says of a step, a parameter or a group. */
function describe({ kind, step, steps, depth, position }) {
  const norms = steps.map((x) => x.norm);
  const norm = norms.find((x) => x.bad) ?? norms.reduce((a, b) => (b.share > a.share ? b : a));
  const held = steps.reduce((sum, x) => sum + x.kept.bytes, 0);
  const kept = held ? bytes(held) : "";
  if (step instanceof Parameter)
    return {
      title: step.name,
      type: type(step.raw),
      formula: "gradient",
      norm: step.raw.gradient ? norm : { text: "none", bad: true },
    };
  if (step) {
    const names = [...new Set(step.raw.kept.filter(({ owner }) => owner === "step").map(({ name }) => name))].join(
      ", ",
    );
    return {
      title: step.name,
      type: step.raw.outputs.map(type).join(" ") + (step.raw.iterations == null ? "" : ` × ${step.raw.iterations}`),
      formula: step.formula,
      norm,
      kept,
      keeps: names,
    };
  }
  const numbers = steps.map(({ raw }) => raw.line).filter((line) => line != null);
  const [low, high] = [numbers.reduce((a, b) => Math.min(a, b), Infinity), numbers.reduce((a, b) => Math.max(a, b), 0)];
  const title = {
    line: () => model.textAt(steps[0].frames[depth - 1] ?? ""),
    pass: () =>
      `${position[0] === position[1] ? "pass" : "passes"} ${span(position[0], position[1])} of ${count(position[2])}`,
    run: () => `part ${position[0]} of ${position[2]}`,
  }[kind]();
  return {
    title,
    type: plural(steps.length, "step"),
    formula: high && kind !== "line" ? `${low === high ? "line" : "lines"} ${span(low, high)}` : "",
    norm,
    kept,
    keeps: "",
  };
}

function drawCard(item, open) {
  const { title, type, formula, norm, kept, keeps } = describe(item);
  const text = [title, type, formula].filter(Boolean).join("\n");
  const knob =
    item.inside.length > 0 &&
    make("span", { class: "knob", "aria-hidden": "true", title: open ? "Close" : "Open" }, open ? "−" : "+");
  const properties = {
    class: `card${open ? " box" : ""}${item.kind ? " group" : ""}`,
    role: "button",
    "aria-expanded": item.inside.length ? String(open) : null,
    title: text,
  };
  const name = make("span", { class: "name" }, title);
  if (item.step instanceof Parameter) {
    properties.class += " pill";
    const end = title.length > 13 ? `…${title.slice(-12)}` : title; // the end tells arguments apart
    return make(
      "div",
      properties,
      make("span", { class: "name" }, end),
      make("span", { class: norm.bad ? "trouble" : "formula" }, norm.text),
    );
  }
  if (open)
    return make("div", properties, knob, name, make("span", { class: "type" }, plural(item.inside.length, "step")));
  const memory = kept && make("div", { class: "keeps" }, make("span", {}, `keeps ${keeps}`), make("b", {}, kept));
  const size = make("span", { class: norm.bad ? "trouble" : "type" }, `norm ${norm.text}`);
  if (item.kind) {
    return make(
      "div",
      properties,
      make("div", { class: "title" }, knob, name, make("span", { class: "soft" }, formula)),
      make("div", { class: "fw" }, make("span", { class: "type" }, type)),
      make("div", { class: "bw" }, size),
      memory,
    );
  }
  return make(
    "div",
    properties,
    make("div", { class: "fw" }, make("span", {}, knob, name), make("span", { class: "type" }, type)),
    make("div", { class: "bw" }, make("span", { class: "formula" }, formula), size),
    memory,
  );
}

// What is selected, and the header.

function drawDetails() {
  byId("details").replaceChildren(
    ...[details({ model, state, goTo, chooseLine, chooseSteps })].flat(3).filter(Boolean),
  );
  byId("details").scrollTop = 0;
}

function drawHeader() {
  const { function: name, value, totals, generator } = model.report;
  document.title = `Backward pass of ${name}`;
  byId("name").textContent = name;
  byId("generator").textContent = generator;
  const total = (text, unit) => make("span", {}, make("b", {}, text), ` ${unit}`);
  byId("totals").append(
    total(value.text, "value"),
    total(count(totals.steps), "steps"),
    total(bytes(totals.kept_bytes), "kept"),
    total(number(totals.gradient_norm), "gradient norm"),
    make(
      "button",
      { type: "button", class: totals.flags ? "trouble" : "soft", onclick: chooseNothing },
      plural(totals.flags, "finding"),
    ),
  );
}

// Search, switches and keys.

byId("query").addEventListener("input", (event) => update({ query: event.target.value.trim() }));
byId("query").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "Enter") return;
  event.preventDefault();
  byId("steps").focus();
});
byId("all-steps").addEventListener("click", () => (chooseNothing(), byId("steps").focus()));
byId("zoom-in").addEventListener("click", () => graph.zoom(1.25));
byId("zoom-out").addEventListener("click", () => graph.zoom(0.8));
byId("zoom-fit").addEventListener("click", () => graph.fit());

const ways = [...byId("direction").children];
const turn = (way) => {
  document.body.dataset.direction = way.value;
  for (const other of ways) {
    other.setAttribute("aria-checked", String(other === way));
    other.tabIndex = other === way ? 0 : -1;
  }
};
byId("direction").addEventListener("click", (event) => event.target.value && turn(event.target));
byId("direction").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const next = ways.at((ways.indexOf(event.target) + by) % ways.length);
  turn(next);
  next.focus();
});

// Without a choice the style follows the system by itself.
const dark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
const nameTheme = () => {
  byId("theme").title = isDark() ? "Use light colours" : "Use dark colours";
  byId("theme").setAttribute("aria-label", byId("theme").title);
};
dark.addEventListener("change", nameTheme);
byId("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
nameTheme();

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === byId("query");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  } else if (event.key === "Escape" && (state.query || typing)) {
    byId("query").value = "";
    if (typing) byId("steps").focus();
    update({ query: "" });
  } else if (event.key === "Escape") chooseNothing();
});

for (let scope = graph.steps; scope.length === 1 && scope[0].children.length; scope = scope[0].children)
  state.opened.add(scope[0].id);
graph.arrange(state.opened);
graph.fit();
drawHeader();
openSource(new Set());
update({});
root.dataset.ready = "true";
performance.mark("ready");
