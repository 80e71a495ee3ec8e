"""Reports as ``BackwardReport.to_dict()`` gives them, made up, for the tests of the page."""

from __future__ import annotations

import itertools
import math
from typing import Any

SOURCE = '''\
"""A recurrent network over a sequence."""

import jax
import jax.numpy as jnp


@jax.jit
def cell(params, state, x):
    return jnp.tanh(x @ params["w"] + state @ params["u"] + params["b"])


def run(params, xs):
    def step(state, x):
        new = cell(params, state, x)
        return new, new

    start = jnp.zeros(params["u"].shape[0])  # nothing is known yet
    _, states = jax.lax.scan(step, start, xs)
    return states


def unused(x):
    return x


def more(x):
    return x


def loss(params, xs, ys):
    states = run(params, xs)
    predictions = states @ params["out"]
    error = predictions - ys
    return jnp.mean(error**2)
'''


class Recorder:
    """Collects the parts of a report: steps in the order of the backward pass, each by the number it gets."""

    def __init__(self, function: str, sources: dict[str, str | None]):
        self.function = function
        self.files = [
            dict(id=i, path=f"/home/user/{name}", name=name, text=text)
            for i, (name, text) in enumerate(sources.items())
        ]
        self.steps: list[dict] = []
        self.variables: list[dict] = []
        self.parameters: list[dict] = []
        self.flags: list[dict] = []

    def variable(self, shape: tuple = (8, 16), name: str | None = None, kind: str = "value") -> int:
        return add(self.variables, shape=list(shape), dtype="float32", name=name, kind=kind, step=None)

    def parameter(self, path: str, shape: tuple = (16, 16), norm: float | None = 1.0) -> int:
        """An argument that is differentiated; returns its variable."""
        variable = self.variable(shape, path, "argument")
        gradient = None if norm is None else statistics(norm, math.prod(shape))
        typed = dict(shape=list(shape), dtype="float32")
        add(self.parameters, path=path, argument=0, **typed, variable=variable, gradient=gradient, steps=[], flags=[])
        return variable

    def step(self, primitive: str, operands: list[int], output: int, rule: list[str], **others: Any) -> int:
        """``norm`` is that of the cotangent that comes in, ``kept`` has bytes by name; the rest as in a report."""
        norm, kept, name, parent = (others.pop(key, None) for key in ("norm", "kept", "name", "parent"))
        types = [f"f32[{','.join(map(str, self.variables[v]['shape']))}]" for v in (*operands, output)]
        held = [
            dict(name=key, shape=[n // 4], dtype="float32", bytes=n, owner="step") for key, n in (kept or {}).items()
        ]
        step = dict(
            parent=parent,
            children=[],
            depth=0 if parent is None else self.steps[parent]["depth"] + 1,
            kind="operation",
            primitive=primitive,
            name=name,
            operation=f"{name or primitive}({', '.join(types[:-1])}) -> {types[-1]}",
            rule=[dict(operand=i, formula=text) for i, text in enumerate(rule)],
            file=None if others.get("line") is None else 0,
            line=None,
            function=None,
            line_id=None,
            stack=[],
            operands=[self.value(v) for v in operands],
            outputs=[self.value(output)],
            kept=held,
            kept_bytes=sum(x["bytes"] for x in held),
            incoming=[statistics(norm or 1.0)],
            outgoing=[statistics((norm or 1.0) * 0.9) for _ in operands],
            iterations=None,
            note=None,
            flags=[],
        )
        number = add(self.steps, **step | others)
        if parent is not None:
            self.steps[parent]["children"].append(number)
        elif self.variables[output]["step"] is None:
            self.variables[output]["step"] = number
        return number

    def value(self, variable: int) -> dict:
        return dict(variable=variable, shape=self.variables[variable]["shape"], dtype="float32", active=True)

    def flag(self, kind: str, severity: str, message: str, steps: list[int] = (), parameters: list[int] = ()) -> None:
        where = dict(steps=list(steps), lines=[], parameters=list(parameters))
        number = add(self.flags, kind=kind, severity=severity, message=message, **where)
        for flagged in (*(self.steps[i] for i in steps), *(self.parameters[i] for i in parameters)):
            flagged["flags"].append(number)

    def report(self) -> dict:
        lines: list[dict] = []
        located = [s for s in self.steps if s["line"] is not None]
        place = lambda s: (s["file"], s["line"])  # noqa: E731
        for (file, line), members in itertools.groupby(sorted(located, key=place), place):
            steps = list(members)
            text = self.files[file]["text"]
            number = add(
                lines,
                file=file,
                line=line,
                function=steps[0]["function"],
                text="" if text is None else text.split("\n")[line - 1].strip(),
                steps=[s["id"] for s in steps],
                kept_bytes=sum(s["kept_bytes"] for s in steps if not s["children"]),
                norm=max(x["norm"] for s in steps for x in s["incoming"]),
                nonfinite=sum(x["nonfinite"] for s in steps for x in s["outgoing"]),
                zeros=0.25,
                flags=sorted({flag for s in steps for flag in s["flags"]}),
            )
            for step in steps:
                step["line_id"] = number
        outermost = [s for s in self.steps if s["parent"] is None]
        for parameter in self.parameters:
            read = parameter["variable"]
            parameter["steps"] = [s["id"] for s in outermost if read in [x["variable"] for x in s["operands"]]]
        for flag in self.flags:
            flag["lines"] = sorted({self.steps[i]["line_id"] for i in flag["steps"]} - {None})
        return dict(
            version=1,
            generator="funcgrad 0.1.0",
            function=self.function,
            value=dict(shape=[], dtype="float32", text="2.3456"),
            seed="1",
            files=self.files,
            lines=lines,
            steps=self.steps,
            variables=self.variables,
            parameters=self.parameters,
            flags=self.flags,
            totals=dict(
                steps=len(self.steps),
                kept_bytes=sum(s["kept_bytes"] for s in outermost),
                argument_bytes=4096,
                parameters=len(self.parameters),
                gradient_norm=1.5,
                nonfinite=sum(line["nonfinite"] for line in lines),
                flags=len(self.flags),
            ),
        )


def add(members: list[dict], **fields: Any) -> int:
    """A new member of a list, which knows its place in it; returns that."""
    members.append(dict(id=len(members), **fields))
    return len(members) - 1


def statistics(norm: float, size: int = 128, iterations: list[float] | None = None, **others: Any) -> dict:
    finite = dict(norm=norm, min=-norm / 3, max=norm / 2, rms=norm / math.sqrt(size))
    counts = dict(zeros=0.25, nan=0, inf=0, nonfinite=0, dead=0, slices=8)
    series = None
    if iterations is not None:
        none = [0] * len(iterations)
        halves = dict(min=[-x / 3 for x in iterations], max=[x / 2 for x in iterations])
        series = dict(norm=iterations, **halves, zeros=none, nonfinite=none)
    return dict(size=size, **finite, **counts, iterations=series) | others


def at(text: str, function: str = "loss") -> dict:
    """Where the line of ``SOURCE`` is that starts with a text."""
    line = next(i for i, line in enumerate(SOURCE.split("\n"), 1) if line.strip().startswith(text))
    return {"line": line, "function": function}


def recurrent() -> dict:
    """A small program: a scan over a jitted cell whose cotangents vanish, an argument that gets no gradient, a NaN."""
    r = Recorder("loss", {"recurrent.py": SOURCE})
    w, u, b = (r.parameter(f"params['{k}']", (16, 16), norm) for k, norm in (("w", 0.12), ("u", 3.4e-5), ("b", 0.5)))
    out = r.parameter("params['out']", (16, 1), 0.9)
    r.parameter("params['unused']", (16,), None)
    states, predictions, error = r.variable((100, 16)), r.variable((100, 1)), r.variable((100, 1))
    squares, total, result = r.variable((100, 1)), r.variable(()), r.variable((), kind="result")
    mean = at("return jnp.mean")
    r.step("div", [total], result, ["ct / 100"], **mean)
    r.step("reduce_sum", [squares], total, ["broadcast(ct)"], norm=0.01, **mean)
    r.step("integer_pow", [error], squares, ["ct * 2 * x"], norm=0.1, kept={"x": 400}, **mean)
    r.step("sub", [predictions], error, ["ct"], norm=0.31, **at("error ="))
    product = ["ct @ y.T", "x.T @ ct"]
    r.step("dot_general", [states, out], predictions, product, norm=0.31, kept={"x": 6400}, **at("predictions ="))
    loop = dict(kind="loop", iterations=100, norm=0.42, kept={"h": 12800}, **at("_, states", "run"))
    scan = r.step("scan", [w, u, b], states, ["the backward half of the body, scanned in reverse"], **loop)

    new, before, a, c, d = (r.variable((16,)) for _ in range(5))
    norms = [1.5 * 0.93**i for i in range(100)][::-1]
    inside = {"incoming": [statistics(1.5, 16, norms)]}
    made = {"name": "cell", "kind": "call", "parent": scan, "kept": {"out": 6400}, **inside, **at("new =", "step")}
    call = r.step("jit", [w, u, b, before], new, ["the backward half of cell"], **made)
    caller = {"file": 0, **at("new =", "step")}
    inside |= {"parent": call, "stack": [caller], **at("return jnp.tanh", "cell")}
    r.step("tanh", [d], new, ["ct * (1 - out**2)"], kept={"out": 6400}, **inside)
    r.step("add", [c, b], d, ["ct", "ct"], **inside)
    r.step("add", [a, w], c, ["ct", "ct"], **inside)
    bad = [statistics(3e-6, 16, [x / 2 for x in norms]), statistics(0.0, nan=3, nonfinite=3) | NOTHING]
    last = r.step("dot_general", [before, u], a, product, kept={"x": 6400}, outgoing=bad, **inside)
    r.flag("nonfinite", "error", "The cotangent of params['u'] has 3 entries that are not finite", [last], [1])
    r.flag("vanishing", "warning", "Cotangents shrink by 0.93 in each iteration of the scan", [scan])
    r.flag("no_gradient", "warning", "No gradient reaches params['unused']", parameters=[4])
    return r.report()


#: What a cotangent without finite entries has for numbers.
NOTHING = {"norm": None, "min": None, "max": None, "rms": None}


def layered(steps: int, lines: int = 40) -> dict:
    """A network written out layer by layer: ``steps`` operations on ``lines`` lines of two files, with skips.

    One step in fifty is a call with two steps of its own.
    """
    body = [f"    h{i} = jnp.tanh(h{max(i - 1, 0)} * {i}.5 + h{max(i - 7, 0)})" for i in range(lines)]
    half = len(body) // 2
    sources = {
        "model.py": "\n".join(["def block(h0):", *body[:half], ""]),
        "head.py": "\n".join(["# The head.", "def head(h0):", *body[half:], ""]),
    }
    r = Recorder("network", sources)
    arguments = [r.parameter(f"params['layers'][{i}]['w']", norm=10.0 ** -(i % 7)) for i in range(steps // 100 + 1)]
    values = [r.variable() for _ in range(steps + 1)]
    at = steps
    while len(r.steps) < steps:
        at -= 1
        line = at % lines
        file = int(line >= half)
        where = dict(line=line + 2 + file - file * half, file=file, function=("block", "head")[file])
        operands, result = [values[at], values[max(0, at - 1 - at % 11)]], values[at + 1]
        where["norm"] = 1e-6 * 1e6 ** (at / steps)
        if at % 50 == 0:
            operands.append(arguments[at // 100])
            inside, inner = {"name": "gelu", "kind": "call", **where}, r.variable()
            where["parent"] = r.step("jit", operands, result, ["the backward half of gelu"], **inside)
            r.step("tanh", [inner], result, ["ct * (1 - out**2)"], kept={"out": 4096}, **where)
            r.step("mul", operands[:1], inner, ["ct * y"], kept={"y": 4096}, **where)
        else:
            name, rule = [("mul", "ct * y"), ("tanh", "ct * (1 - out**2)"), ("add", "ct")][at % 3]
            kept = {"y": 4096 * (1 + line)} if name == "mul" else {"out": 2048} if name == "tanh" else None
            r.step(name, operands, result, [rule] * 2, kept=kept, **where)
    return r.report()


HOSTILE = '</script><img src=x onerror="window.pwned=1"> <!-- \u2028 \u2029 \' " & `${1}` {{style}} \ud800'


def hostile() -> dict:
    """A program whose every text tries to get out of where it is put."""
    r = Recorder(HOSTILE, {f"{HOSTILE}.py": f"# {HOSTILE}\nloss = '{HOSTILE}'\n"})
    w = r.parameter(HOSTILE)
    result = r.variable((), HOSTILE, "result")
    named = dict(function=HOSTILE, name=HOSTILE, kept={HOSTILE: 8}, note=HOSTILE)
    call = r.step(HOSTILE, [w], result, [HOSTILE], line=2, **named)
    r.step(HOSTILE, [w], r.variable(), [HOSTILE], line=1, parent=call, **named)
    r.flag("vanishing", "warning", HOSTILE, [call], [0])
    return r.report()
