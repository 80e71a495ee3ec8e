"use strict";
// What is selected, in words, tables and charts. `page` holds the model and the ways to select something else.

function details({ model, state, goTo, chooseLine, chooseSteps }) {
  const { step, chosen } = state;
  if (step instanceof Parameter) return ofParameter(step);
  if (step) return ofStep(step);
  if (chosen?.line) return ofLine(chosen.line);
  if (chosen) return [make("h3", { class: "mono" }, chosen.title), ...totals(chosen.steps)];
  return overview();

  function overview() {
    const { parameters } = model;
    return [
      make("h3", {}, "Overview"),
      model.flags.length
        ? findings(model.flags)
        : make("p", { class: "soft" }, "Nothing to flag: no vanishing, exploding, dead or missing gradients."),
      model.roots.length > 1 && heading("Norm along the backward pass, and memory still held"),
      model.roots.length > 1 && depthChart(),
      parameters.length > 0 && heading(plural(parameters.length, "gradient")),
      parameters.length > 0 && parameterTable(parameters),
      model.report.memory && heading("Memory of the compiled gradient"),
      model.report.memory && memoryOf(model.report.memory),
    ];
  }

  /** What the compiled gradient holds, by line, and what less would cost. */
  function memoryOf({ heading, lines, curve, budgets }) {
    const lineAt = ({ file, line }) => model.lines.find((x) => x.raw.line === line && model.files[x.raw.file].path === file);
    const name = (place) => {
      const line = place && lineAt(place);
      return line ? button(line.place, () => chooseLine(line)) : place ? `${place.file}:${place.line}` : "?";
    };
    const least = curve.at(-1);
    return [
      ...heading.slice(1).map((text) => make("p", { class: "soft" }, text)),
      table(
        ["line", "kept"],
        lines.flatMap(({ place, bytes: n, values }) => [
          [name(place), bytes(n)],
          ...values.map((text) => [make("span", { class: "soft" }, text), ""]),
        ]),
      ),
      table(
        ["fg.checkpoint", "held", "operations"],
        [
          ["nothing computed again", bytes(curve[0][0]), "1.00"],
          ...budgets.map(({ asked, held, flops }) =>
            held == null
              ? [`memory=${asked}`, "too little", ""]
              : [`memory=${asked}`, bytes(held), flops.toFixed(2)],
          ),
          ["the least", bytes(least[0]), least[1].toFixed(2)],
        ],
      ),
    ];
  }

  /** The first findings, and a button for the others. */
  function findings(flags, most = 6) {
    const shown = make("div", {}, flags.slice(0, most).map(finding));
    const more = flags.length - most;
    if (more <= 0) return shown;
    const all = () => shown.replaceChildren(...flags.map(finding));
    shown.append(make("button", { type: "button", class: "link-button more", onclick: all }, `${count(more)} more`));
    return shown;
  }

  function finding(flag) {
    const steps = flag.steps.map((id) => model.steps[id]);
    const parameters = flag.parameters.map((id) => model.parameters[id]);
    const kind = flag.kind.replace("_", " ");
    const pick = () => {
      if (steps.length === 1) goTo(steps[0]);
      else if (steps.length) chooseSteps(kind, steps);
      else if (parameters.length) goTo(parameters[0]);
    };
    const parts = [make("b", {}, kind), make("span", {}, flag.message)];
    return make("button", { type: "button", class: `finding ${flag.severity}`, onclick: pick }, parts);
  }

  function parameterTable(parameters) {
    return table(
      ["argument", "type", "norm"],
      parameters.map((parameter) => {
        const { gradient } = parameter.raw;
        const name = make(
          "button",
          { type: "button", class: "link-button mono", onclick: () => goTo(parameter) },
          parameter.name,
        );
        const norm = gradient ? cell("norm", parameter.norm) : make("b", { class: "trouble" }, "none");
        return [name, type(parameter.raw), norm];
      }),
    );
  }

  function ofParameter(parameter) {
    const { gradient } = parameter.raw;
    return [
      make("h3", { class: "mono" }, parameter.name),
      make("p", { class: "crumbs" }, `argument ${parameter.raw.argument}, ${type(parameter.raw)}`),
      parameter.flags.length > 0 && findings(parameter.flags),
      heading("Gradient"),
      gradient
        ? statisticsTable([["gradient", gradient]])
        : make(
            "p",
            {},
            "None: no cotangent reaches it. The result does not depend on it, or only through operations without derivative.",
          ),
    ];
  }

  function ofLine(line) {
    const functions = [...new Set(line.steps.map((x) => x.function).filter(Boolean))];
    return [
      make("h3", {}, line.place),
      make("p", { class: "crumbs" }, functions.length > 0 && ["in ", make("code", {}, functions.join(", "))]),
      make("code", { class: "quote" }, colour(tokens(line.raw.text)[0])),
      line.flags.length > 0 && findings(line.flags),
      ...totals(line.steps, line),
    ];
  }

  function totals(steps, line) {
    const norms = steps.map((x) => x.norm);
    const largest =
      line?.norm ?? norms.find((x) => x.bad) ?? norms.reduce((a, b) => (b.share > a.share ? b : a), norms[0]);
    const held = line
      ? line.kept.bytes
      : steps.filter((x) => !x.parent || !steps.includes(x.parent)).reduce((sum, x) => sum + x.kept.bytes, 0);
    return [
      heading("In all"),
      table(
        ["", ""],
        [
          ["steps", count(steps.length)],
          ["largest cotangent norm", make("span", { class: largest.bad ? "trouble" : null }, largest.text)],
          ["kept for the way back", held ? bytes(held) : "nothing"],
        ],
      ),
    ];
  }

  function ofStep(step) {
    const { raw } = step;
    const where = [
      step.function && ["in ", make("code", {}, step.function), ", "],
      step.line ? button(step.place, () => chooseLine(step.line)) : step.place || "no source line known",
    ];
    const callers = raw.stack.map(({ file, line, function: name }) => `${name}, ${model.files[file].name}:${line}`);
    const names = raw.operands.length <= 3 ? ["x", "y", "z"] : raw.operands.map((_, i) => `operand ${i}`);
    const incoming = raw.incoming.map((x, i) => [raw.incoming.length > 1 ? `in, output ${i}` : "in", x]);
    const outgoing = raw.outgoing
      .map((x, i) => [`to ${names[i]}`, x, raw.operands[i]?.active])
      .filter(([, x, active]) => x || active);
    const series = [...incoming, ...outgoing].filter(([, x]) => x?.iterations);
    return [
      make("h3", { class: "mono" }, step.name),
      make(
        "p",
        { class: "crumbs" },
        ...where,
        step.parent && [" · inside ", button(step.parent.name, () => goTo(step.parent))],
      ),
      callers.length > 0 && make("p", { class: "soft" }, `called from ${callers.join(" ← ")}`),
      step.line && make("code", { class: "quote" }, colour(tokens(step.line.raw.text)[0])),
      step.flags.length > 0 && findings(step.flags),
      raw.note && make("p", { class: "soft" }, raw.note),
      heading("Forward"),
      make("code", { class: "quote forward" }, raw.operation),
      heading("Backward"),
      raw.rule.map(({ operand, formula }) =>
        make(
          "div",
          { class: "rule" },
          make("span", { class: "soft" }, operand == null ? "all operands: " : `${names[operand]}: `),
          formula,
        ),
      ),
      heading("Cotangents"),
      statisticsTable([...incoming, ...outgoing]),
      series.map(([name, x]) => [heading(`Norm ${name}, iteration by iteration`), iterationChart(x.iterations)]),
      heading("Kept for the way back"),
      raw.kept.length
        ? table(
            ["value", "type", "bytes", "shared with"],
            raw.kept.map((x) => [
              x.name,
              type(x),
              bytes(x.bytes),
              { step: "", argument: "an argument", shared: "another step" }[x.owner],
            ]),
          )
        : make("p", { class: "soft" }, "Nothing."),
      step.children.length > 0 && heading(`${plural(step.children.length, "step")} inside`),
      step.children.length > 0 && stepTable(step.children.slice(0, 200)),
      heading("Operands and outputs"),
      table(
        ["value", "type", "name", "active"],
        [
          ...raw.operands.map((x, i) => [names[i], type(x), nameOf(x), x.active ? "yes" : "no"]),
          ...raw.outputs.map((x, i) => [
            raw.outputs.length > 1 ? `out ${i}` : "out",
            type(x),
            nameOf(x),
            x.active ? "yes" : "no",
          ]),
        ],
      ),
    ];
  }

  function nameOf({ variable }) {
    return model.variables[variable]?.name ?? "";
  }

  function stepTable(steps) {
    return table(
      ["operation", "rule", "norm", "kept"],
      steps.map((x) => [
        button(x.name, () => goTo(x)),
        make("span", { class: "formula", title: x.formula }, x.formula),
        cell("norm", x.norm),
        cell("kept", x.kept),
      ]),
      "steps",
    );
  }

  function statisticsTable(rows) {
    return table(
      ["cotangent", "norm", "min", "max", "zeros", "not finite"],
      rows.map(([name, x]) =>
        x
          ? [
              name,
              number(x.norm),
              number(x.min),
              number(x.max),
              percent(x.zeros),
              x.nonfinite
                ? make(
                    "b",
                    { class: "trouble" },
                    [x.nan && `${count(x.nan)} nan`, x.inf && `${count(x.inf)} inf`].filter(Boolean).join(", "),
                  )
                : "0",
            ]
          : [name, make("span", { class: "soft" }, "none"), "", "", "", ""],
      ),
    );
  }

  /** The norm at each step of the backward pass on a log scale, over the memory still held at that step. */
  function depthChart() {
    const members = model.roots;
    const held = [];
    let left = members.reduce((sum, x) => sum + x.kept.bytes, 0);
    for (const x of members) {
      held.push(left);
      left -= x.kept.bytes;
    }
    const chart = plot(
      members.map((x) => x.size),
      {
        label: "Cotangent norm along the backward pass",
        bad: members.map((x) => Boolean(x.bad)),
        held,
        ends: ["result", "arguments"],
        pick: (i) => goTo(members[i]),
        names: (i) => `${members[i].name} ${members[i].place}\nnorm ${members[i].norm.text}, ${bytes(held[i])} held`,
      },
    );
    return chart;
  }

  function iterationChart({ norm, nonfinite }) {
    return plot(norm, {
      label: "Norm in each iteration",
      bad: nonfinite.map(Boolean),
      ends: ["iteration 0", String(norm.length - 1)],
      names: (i) => `iteration ${i}\nnorm ${number(norm[i])}`,
    });
  }
}

const heading = (text) => make("h4", {}, text);
const button = (text, onclick) => make("button", { type: "button", class: "link-button mono", onclick }, text);

function table(head, rows, kind = "") {
  const line = (cells, tag) =>
    make(
      "tr",
      {},
      cells.map((x, i) => make(tag, i ? {} : { class: "name" }, x)),
    );
  return make(
    "div",
    { class: `scroll ${kind}` },
    make(
      "table",
      {},
      head.some(Boolean) && make("thead", {}, line(head, "th")),
      make(
        "tbody",
        {},
        rows.map((row) => line(row, "td")),
      ),
    ),
  );
}

/** A number over a bar of its size. */
function cell(kind, { text, share, bad }) {
  return make(
    "span",
    { class: `cell ${kind}${bad ? " bad" : ""}` },
    share > 0 && make("i", { style: { width: `${Math.max(3, 50 * share)}px` } }),
    make("span", { class: "visually-hidden" }, text && `${kind} `),
    make("b", {}, text),
  );
}

/** Values on a log scale, over an area on a scale of its own. Points that fall on one pixel are drawn as one. */
function plot(values, { label, bad, held, ends, pick, names }) {
  const [width, height, left, bottom] = [360, 104, 44, 18];
  const logs = values.filter((x) => x > 0).map(Math.log10);
  let [low, high] = [logs.reduce((a, b) => Math.min(a, b), Infinity), logs.reduce((a, b) => Math.max(a, b), -Infinity)];
  if (!logs.length) [low, high] = [0, 0];
  if (high - low < 1) [low, high] = [(low + high - 1) / 2, (low + high + 1) / 2];
  const x = (i) => left + ((width - left - 4) * i) / Math.max(1, values.length - 1);
  const y = (value) => 6 + (height - bottom - 6) * (1 - (Math.log10(value) - low) / (high - low));
  const floor = height - bottom;
  const chart = make("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${label}: from ${number(values[0])} to ${number(values.at(-1))}`,
  });
  if (held) {
    const most = held.reduce((a, b) => Math.max(a, b), 1);
    chart.append(
      make("path", {
        class: "held",
        d: `M${x(0)} ${floor}${thin(held, x, (a) => Math.max(...a))
          .map(([px, v]) => `L${px} ${floor - (floor - 6) * (v / most)}`)
          .join("")}L${x(held.length - 1)} ${floor}Z`,
      }),
    );
  }
  chart.append(make("line", { class: "axis", x1: left, x2: width, y1: floor, y2: floor }));
  let path = "";
  let pen = "M";
  for (const [px, low_, high_] of thin(values, x, (a) =>
    a.filter((v) => v > 0).length ? [Math.min(...a.filter((v) => v > 0)), Math.max(...a.filter((v) => v > 0))] : null,
  )) {
    if (low_ == null) pen = "M";
    else {
      path += `${pen}${px} ${y(high_)}${low_ === high_ ? "" : `L${px} ${y(low_)}`}`;
      pen = "L";
    }
  }
  chart.append(make("path", { class: "norm", d: path }));
  bad.forEach((is, i) => is && chart.append(make("circle", { class: "bad", cx: x(i), cy: floor, r: 3 })));
  const write = (px, py, anchor, text) => chart.append(make("text", { x: px, y: py, "text-anchor": anchor }, text));
  write(left - 5, 12, "end", number(10 ** high));
  write(left - 5, floor, "end", number(10 ** low));
  write(left, height - 4, "start", ends[0]);
  write(width, height - 4, "end", ends[1]);
  const here = make("line", { class: "here", y1: 4, y2: floor, visibility: "hidden" });
  const title = make("title");
  chart.append(here, title);
  const nearest = (event) => {
    const box = chart.getBoundingClientRect();
    const at = ((event.clientX - box.x) / box.width) * width;
    return Math.min(
      values.length - 1,
      Math.max(0, Math.round(((at - left) / (width - left - 4)) * (values.length - 1))),
    );
  };
  chart.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    here.setAttribute("x1", x(i));
    here.setAttribute("x2", x(i));
    here.setAttribute("visibility", "visible");
    title.textContent = names(i);
  });
  chart.addEventListener("pointerleave", () => here.setAttribute("visibility", "hidden"));
  if (pick) chart.addEventListener("click", (event) => pick(nearest(event)));
  return chart;
}

function groupBy(members, key) {
  const groups = new Map();
  for (const member of members) {
    const name = key(member);
    if (groups.has(name)) groups.get(name).push(member);
    else groups.set(name, [member]);
  }
  return groups;
}

/** One entry for each pixel: where it is, and what `merge` makes of the values there. */
function thin(values, x, merge) {
  const columns = groupBy(
    values.map((value, i) => ({ value, at: Math.round(x(i)) })),
    ({ at }) => at,
  );
  return [...columns].map(([at, members]) => [
    members.length === 1 ? x(values.findIndex((_, i) => Math.round(x(i)) === at)) : at,
    ...[merge(members.map(({ value }) => value))].flat(),
  ]);
}
