"use strict";
// The report, looked up from every side. Nothing here knows of elements, and nothing changes after it is made.

const count = (n) => n.toLocaleString("en");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

/** Three digits, with an exponent where there would be many zeros. */
function number(x) {
  if (x == null) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e-3 && size < 1e5) return String(Number(x.toPrecision(3)));
  return Number(x.toPrecision(2)).toExponential().replace("e+", "e");
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i && n < 9.95 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : `${Number((100 * share).toFixed(1))}%`);

const SHORT = { float: "f", bfloat: "bf", int: "i", uint: "u", complex: "c", bool: "bool" };
/** A type as `f32[8,16]`. */
const type = ({ shape, dtype }) =>
  `${dtype.replace(/^(b?float|u?int|complex)(?=\d)/, (name) => SHORT[name])}[${shape.join(",")}]`;

const linesOf = (text) => text.split(/\r\n|\n|\r/);

/** Python, in pieces: for each line a list of [what it is, text]. A string may go over many lines. */
function tokens(text) {
  const pattern =
    /(#.*)|([rbfuRBFU]{0,2}(?:"""[^]*?"""|'''[^]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))|\b(and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield|None|True|False)\b|\b(\d[\w.]*)/g;
  const lines = [[]];
  const add = (kind, piece) =>
    linesOf(piece).forEach((part, i) => {
      if (i) lines.push([]);
      if (part) lines.at(-1).push([kind, part]);
    });
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    add("", text.slice(end, match.index));
    add(["c", "s", "k", "n"][match.slice(1).findIndex((group) => group !== undefined)], match[0]);
    end = match.index + match[0].length;
  }
  add("", text.slice(end));
  return lines;
}

const CONTEXT = 5; // lines shown around a line that has steps

class Model {
  constructor(report) {
    this.report = report;
    this.flags = report.flags;
    this.files = report.files;
    this.variables = report.variables;
    this.steps = report.steps.map((raw) => new Step(raw));
    for (const step of this.steps) this.connect(step);
    this.roots = this.steps.filter((step) => !step.parent);
    this.parameters = report.parameters.map((raw) => new Parameter(raw, this));
    this.lines = report.lines.map((raw) => new Line(raw, this));
    for (const line of this.lines) for (const step of line.steps) step.line = line;
    const arguments_ = new Map(this.parameters.map((parameter) => [parameter.raw.variable, parameter]));
    for (const scope of [this.roots, ...this.steps.map((step) => step.children)]) link(scope, arguments_);
    this.beneath = new Map(); // for each line that calls: the steps that it leads to
    for (const step of this.steps) {
      for (const frame of new Set(step.frames.slice(0, -1))) {
        if (this.beneath.has(frame)) this.beneath.get(frame).push(step);
        else this.beneath.set(frame, [step]);
      }
    }
    this.measure();
  }

  connect(step) {
    const { raw } = step;
    step.parent = this.steps[raw.parent] ?? null;
    step.children = raw.children.map((id) => this.steps[id]);
    step.flags = raw.flags.map((id) => this.flags[id]);
    step.frames = [...raw.stack.toReversed(), ...(raw.line == null ? [] : [raw])].map(
      ({ file, line }) => `${file}:${line}`,
    );
    step.place = raw.line == null ? "" : `${this.files[raw.file].name}:${raw.line}`;
  }

  /** What the bars of norms and of memory are measured against. */
  measure() {
    const logs = [...this.steps, ...this.lines, ...this.parameters]
      .map((x) => x.size)
      .filter((x) => x > 0)
      .map(Math.log10);
    const [low, high] = [
      logs.reduce((a, b) => Math.min(a, b), Infinity),
      logs.reduce((a, b) => Math.max(a, b), -Infinity),
    ];
    const share = (x) => (!(x > 0) ? 0 : high === low ? 1 : 0.06 + (0.94 * (Math.log10(x) - low)) / (high - low));
    for (const members of [this.steps, this.lines, this.parameters]) {
      const most = members.reduce((a, x) => Math.max(a, x.bytes), 0);
      for (const x of members) {
        x.norm = { text: x.bad || number(x.size), share: share(x.size), bad: Boolean(x.bad) };
        x.kept = { bytes: x.bytes, text: x.bytes ? bytes(x.bytes) : "", share: most ? x.bytes / most : 0 };
      }
    }
  }

  /** The rows of the source: of each file its lines that lead to steps, those around, and gaps but for those `shown`. */
  rows(shown) {
    const rows = [];
    for (const file of this.files) {
      const lines = new Map(this.lines.filter(({ raw }) => raw.file === file.id).map((line) => [line.raw.line, line]));
      const text = file.text == null ? [] : linesOf(file.text);
      const pieces = file.text == null ? [] : tokens(file.text);
      const row = (number) => {
        const frame = `${file.id}:${number}`;
        const line = lines.get(number) ?? null;
        const piece = pieces[number - 1] ?? (line ? tokens(line.raw.text)[0] : []);
        return {
          kind: "line",
          frame,
          number,
          line,
          steps: line?.steps ?? this.beneath.get(frame) ?? [],
          tokens: piece,
        };
      };
      const live = [...lines.keys(), ...text.map((_, i) => i + 1).filter((i) => this.beneath.has(`${file.id}:${i}`))];
      if (!live.length) continue;
      rows.push({ kind: "file", text: file.name, title: file.path });
      if (!text.length) rows.push(...live.map(row));
      const visible = new Set(
        live.flatMap((at) => Array.from({ length: 2 * CONTEXT + 1 }, (_, i) => at - CONTEXT + i)),
      );
      let gap = null;
      for (let number = 1; number <= text.length; number++) {
        if (visible.has(number)) gap = null;
        else gap ??= { kind: "gap", frame: `${file.id}:gap ${number}`, lines: 0 };
        if (!gap || shown.has(gap.frame)) rows.push(row(number));
        else if (gap.lines++ === 0) rows.push(gap);
      }
    }
    return rows;
  }

  /** The steps that have all words of the query. */
  search(query) {
    const words = query.toLowerCase().split(/\s+/);
    return new Set(this.steps.filter((step) => words.every((word) => this.textOf(step).includes(word))));
  }

  textOf(step) {
    if (step.text === undefined) {
      const { raw } = step;
      const names = [...raw.operands, ...raw.outputs].map(({ variable }) => this.variables[variable]?.name ?? "");
      const rules = raw.rule.map(({ formula }) => formula);
      const flags = step.flags.flatMap((flag) => [flag.kind, flag.message]);
      step.text = [
        raw.operation,
        raw.name,
        raw.primitive,
        raw.kind,
        raw.function,
        step.place,
        step.line?.raw.text,
        raw.note,
        ...rules,
        ...names,
        ...flags,
      ]
        .join("\n")
        .toLowerCase();
    }
    return step.text;
  }

  /** A line of a file, whether it has steps or not. */
  textAt(frame) {
    const [file, line] = frame.split(":").map(Number);
    this.texts ??= this.files.map(({ text }) => (text == null ? [] : linesOf(text)));
    return `${line}  ${(this.texts[file]?.[line - 1] ?? this.files[file]?.name ?? "").trim()}`;
  }

  withParents(steps) {
    const all = new Set(steps);
    for (const step of steps) for (let p = step.parent; p && !all.has(p); p = p.parent) all.add(p);
    return all;
  }
}

/** Within a scope, which step or argument a step reads, and whether a cotangent goes back there. */
function link(scope, parameters) {
  const makers = new Map();
  for (const step of scope)
    for (const { variable } of step.raw.outputs) if (variable != null) makers.set(variable, step);
  for (const step of scope) {
    const reads = step.raw.operands.map(({ variable }, i) => ({
      from: makers.get(variable)?.id ?? null,
      parameter: parameters.get(variable) ?? null,
      carries: step.raw.outgoing[i] != null,
    }));
    step.operands = reads.filter(({ from, parameter }) => (from ?? parameter) !== null && from !== step.id);
  }
}

const worst = (statistics) => {
  const bad = statistics.filter((x) => x?.nonfinite);
  return bad.length ? (bad.some((x) => x.nan) ? "nan" : "inf") : "";
};

/** A step of the backward pass. Parameters and lines have the same `size`, `bytes` and `bad`, which the bars show. */
class Step {
  constructor(raw) {
    this.raw = raw;
    this.id = String(raw.id);
    this.name = raw.name ?? raw.primitive;
    this.depth = raw.depth;
    this.function = raw.function;
    this.line = null;
    this.formula = raw.rule
      .map(({ formula }) => formula)
      .filter((x, i, all) => all.indexOf(x) === i)
      .join(" ; ");
    this.size = raw.incoming.reduce((a, x) => (x && x.norm != null ? Math.max(a ?? 0, x.norm) : a), null);
    this.bytes = raw.kept_bytes;
    this.bad = worst(raw.incoming) || worst(raw.outgoing);
  }
}

/** A leaf of the differentiated arguments. In the graph it stands like a step that reads nothing. */
class Parameter {
  constructor(raw, model) {
    this.raw = raw;
    this.id = `parameter ${raw.id}`;
    this.name = raw.path;
    this.steps = raw.steps.map((id) => model.steps[id]);
    this.flags = raw.flags.map((id) => model.flags[id]);
    this.children = [];
    this.operands = [];
    this.size = raw.gradient?.norm ?? null;
    this.bytes = 0;
    this.bad = worst([raw.gradient]);
  }
}

class Line {
  constructor(raw, model) {
    this.raw = raw;
    this.steps = raw.steps.map((id) => model.steps[id]);
    this.flags = raw.flags.map((id) => model.flags[id]);
    this.frame = `${raw.file}:${raw.line}`;
    this.place = `${model.files[raw.file].name}:${raw.line}`;
    this.size = raw.norm;
    this.bytes = raw.kept_bytes;
    this.bad = raw.nonfinite ? worst(this.steps.flatMap(({ raw }) => [...raw.outgoing, ...raw.incoming])) || "inf" : "";
  }
}
