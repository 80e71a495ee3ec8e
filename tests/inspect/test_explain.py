"""The report of a backward pass."""

from __future__ import annotations

import gc
import inspect
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg


def line_of(function, text: str) -> int:
    """The number of the line of a function's source that has ``text``."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def kinds(report) -> list[str]:
    return [flag.kind for flag in report.flags]


def named(report, primitive: str) -> list:
    return [step for step in report.steps if step.primitive == primitive]


def model(params, x):
    hidden = jnp.tanh(x @ params["w"])
    out = hidden * params["scale"]
    return jnp.sum(out)


def params():
    return {"w": 0.1 * jnp.ones((3, 4)), "scale": jnp.arange(1.0, 5.0)}


X = jnp.arange(6.0).reshape(2, 3)


class TestSteps:
    def test_run_from_the_result_to_the_arguments(self):
        report = fg.explain(model)(params(), X)
        assert [step.primitive for step in report.steps] == [
            "reduce_sum",
            "mul",
            "broadcast_in_dim",
            "tanh",
            "dot_general",
        ]
        assert [step.id for step in report.steps] == list(range(5))

    def test_know_the_users_line_and_function(self):
        (step,) = named(fg.explain(model)(params(), X), "tanh")
        assert step.place.file == __file__
        assert step.place.line == line_of(model, "jnp.tanh")
        assert step.place.function == "model"
        assert step.stack == []  # up to the call of explain

    def test_know_the_callers_from_the_inside_out(self):
        def outer(p, x):
            return model(p, x)

        (step,) = named(fg.explain(outer)(params(), X), "tanh")
        (caller,) = step.stack
        assert caller.line == line_of(outer, "return model") and caller.function.endswith("outer")

    def test_show_the_formula_of_each_active_operand(self):
        (both,) = named(fg.explain(lambda x, y: x * y, argnums=(0, 1))(2.0, 3.0), "mul")
        assert [(f.operand, f.formula) for f in both.rule] == [(0, "ct * y"), (1, "ct * x")]
        (one,) = named(fg.explain(lambda x, y: x * y, argnums=1)(2.0, 3.0), "mul")
        assert one.formula == "ct * x" and one.rule[0].operand == 1
        assert [x.active for x in one.operands] == [False, True]

    def test_show_the_rules_that_were_passed(self):
        def double(ct, x):
            return 2 * ct * x

        rules = fg.rules.default.override({lax.sin_p: double})
        (step,) = fg.explain(jnp.sin, rules=rules)(2.0).steps
        assert step.formula == "2 * ct * x" and [k.name for k in step.kept] == ["x"]
        assert step.outgoing[0].norm == 4.0

    def test_have_types(self):
        (step,) = named(fg.explain(model)(params(), X), "dot_general")
        assert step.operation == "dot_general(f32[2,3], f32[3,4]) -> f32[2,4]"

    def test_are_connected_by_variables(self):
        report = fg.explain(model)(params(), X)
        (tanh,), (dot,) = named(report, "tanh"), named(report, "dot_general")
        assert tanh.operands[0].variable == dot.outputs[0].variable
        made = report.variables[dot.outputs[0].variable]
        assert made.step == dot.id and made.kind == "value"
        assert report.variables[dot.operands[1].variable].name == "params['w']"
        assert report.variables[report.steps[0].outputs[0].variable].kind == "result"

    def test_keep_what_grad_keeps(self):
        report = fg.explain(model)(params(), X)
        (tanh,), (mul,), (dot,) = named(report, "tanh"), named(report, "mul"), named(report, "dot_general")
        assert [(k.name, k.bytes, k.owner) for k in tanh.kept] == [("out", 32, "step")]
        owners = {k.name: k.owner for k in mul.kept}
        assert owners == {"y": "step", "x": "shared"}  # x is tanh's output
        assert [k.owner for k in dot.kept] == ["argument"]
        assert report.totals["kept_bytes"] == 32 + 16 and report.totals["argument_bytes"] == X.nbytes


class TestStatistics:
    def test_are_those_of_the_cotangents(self):
        w = jnp.array([[1.0, -2.0, 0.0], [0.5, 3.0, 0.0]])
        (step,) = fg.explain(lambda x: x * w)(jnp.ones((2, 3))).steps
        into, out = step.incoming[0], step.outgoing[0]
        assert (into.size, into.norm, into.zeros) == (6, pytest.approx(math.sqrt(6)), 0)
        assert out.norm == pytest.approx(float(jnp.linalg.norm(w)))
        assert (out.min, out.max) == (-2, 3)
        assert out.rms == pytest.approx(float(jnp.sqrt(jnp.mean(w**2))))
        assert out.zeros == pytest.approx(1 / 3)
        assert (out.dead, out.slices) == (1, 3)

    def test_leave_out_what_is_not_finite_and_count_it(self):
        w = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 3.0])
        report = fg.explain(lambda x: x * w)(jnp.ones(4))
        out = report.steps[0].outgoing[0]
        assert (out.nan, out.inf, out.nonfinite, out.norm, out.min, out.max) == (1, 2, 3, 3, 3, 3)
        assert report.totals["nonfinite"] == 3

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_norm_neither_underflows_nor_overflows(self, scale):
        (step,) = fg.explain(lambda x: x * jnp.full(4, scale))(jnp.ones(4)).steps
        assert step.outgoing[0].norm == pytest.approx(2 * scale, rel=1e-5)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
    def test_of_other_dtypes(self, dtype):
        x = jnp.ones((2, 2), dtype)
        (step, *_) = fg.explain(lambda x: (x * 2).real.astype(jnp.float32))(x).steps[::-1]
        assert step.outgoing[0].norm == pytest.approx(4.0)

    def test_of_an_empty_array_are_zero_and_none(self):
        (step,) = fg.explain(lambda x: x * 2)(jnp.ones((0, 3))).steps
        out = step.outgoing[0]
        assert (out.size, out.norm, out.min, out.max, out.rms) == (0, 0, None, None, None)

    def test_gradients_are_those_of_grad(self):
        report = fg.explain(model)(params(), X)
        wanted = fg.grad(model)(params(), X)
        found = {p.path: p.gradient.norm for p in report.parameters}
        assert found == {
            "params['scale']": pytest.approx(float(jnp.linalg.norm(wanted["scale"]))),
            "params['w']": pytest.approx(float(jnp.linalg.norm(wanted["w"]))),
        }


def recurrent(w, xs):
    def step(state, x):
        return jnp.tanh(w * state + x), state

    last, _ = lax.scan(step, jnp.ones(2), xs)
    return jnp.sum(last)


class TestPrograms:
    def test_jit_opens_into_its_steps_on_their_own_lines(self):
        @jax.jit
        def inner(x):
            return jnp.sin(x) * 2

        def f(x):
            return inner(x) + 1

        report = fg.explain(f)(1.0)
        (call,) = [step for step in report.steps if step.kind == "call"]
        assert call.name == "inner"
        inside = [report.steps[i] for i in call.children]
        assert [step.primitive for step in inside] == ["mul", "sin"]
        assert all(step.parent == call.id and step.depth == 1 for step in inside)
        assert call.place.line == line_of(f, "inner(x) + 1")
        assert inside[1].operands[0].variable == call.operands[0].variable
        assert inside[0].outputs[0].variable == call.outputs[0].variable
        assert inside[1].place.line == line_of(inner.__wrapped__, "jnp.sin")

    def test_checkpoint_recomputes_what_its_steps_keep(self):
        report = fg.explain(lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.exp(jnp.sin(x)))(x)))(jnp.ones(3))
        (remat,) = [step for step in report.steps if step.kind == "remat"]
        assert remat.primitive == "checkpoint" and remat.kept_bytes == 0
        inside = [report.steps[i] for i in remat.children]
        assert [step.primitive for step in inside] == ["exp", "sin"]
        assert {k.owner for step in inside for k in step.kept} == {"recomputed"}
        assert report.totals["kept_bytes"] == 0

    def test_cond_opens_into_the_branch_that_was_taken(self):
        def f(x):
            return lax.cond(x > 0, lambda x: jnp.sin(x), lambda x: jnp.exp(x), x)

        assert [step.primitive for step in fg.explain(f)(1.0).steps] == ["cond", "sin"]
        assert [step.primitive for step in fg.explain(f)(-1.0).steps] == ["cond", "exp"]

    def test_scan_has_statistics_of_every_iteration(self):
        xs = jnp.linspace(-1.0, 1.0, 10).reshape(5, 2)
        report = fg.explain(recurrent)(0.5, xs)
        (loop,) = [step for step in report.steps if step.kind == "loop"]
        assert (loop.primitive, loop.iterations) == ("scan", 5)
        inside = [report.steps[i] for i in loop.children]
        (tanh,) = [step for step in inside if step.primitive == "tanh"]
        norms = tanh.incoming[0].iterations["norm"]

        def state_after(n):
            state = jnp.ones(2)
            for x in xs[:n]:
                state = jnp.tanh(0.5 * state + x)
            return state

        def rest(state, n):
            for x in xs[n:]:
                state = jnp.tanh(0.5 * state + x)
            return jnp.sum(state)

        for n in range(1, 6):  # the cotangent of the state that iteration n - 1 makes
            wanted = jnp.linalg.norm(fg.grad(rest)(state_after(n), n))
            assert norms[n - 1] == pytest.approx(float(wanted), rel=1e-5)
        assert tanh.incoming[0].norm == pytest.approx(float(np.linalg.norm(norms)), rel=1e-5)

    def test_a_reversed_scan_has_its_statistics_in_the_order_of_the_elements(self):
        def f(w):
            step = lambda c, x: (c * w * x, None)  # noqa: E731
            return lax.scan(step, 1.0, jnp.array([1.0, 2.0, 4.0]), reverse=True)[0]

        report = fg.explain(f)(1.0)
        last = next(step for step in report.steps if step.depth == 1)
        assert last.incoming[0].iterations["norm"] == [1.0, 1.0, 2.0]

    def test_loops_in_loops_have_statistics_of_every_iteration_of_both(self):
        def f(w):
            inner = lambda c, _: (jnp.sin(c * w), None)  # noqa: E731
            outer = lambda c, _: (lax.scan(inner, c, None, length=3)[0], None)  # noqa: E731
            return lax.scan(outer, 1.0, None, length=4)[0]

        report = fg.explain(f)(0.5)
        (sin,) = named(report, "sin")
        assert sin.depth == 2
        assert np.shape(sin.incoming[0].iterations["norm"]) == (12,)
        assert report.parameters[0].gradient.norm == pytest.approx(abs(float(fg.grad(f)(0.5))), rel=1e-6)

    def test_a_while_loop_opens_although_its_length_is_not_known_before(self):
        def f(x):
            return lax.while_loop(lambda c: c[1] < 4, lambda c: (jnp.sin(c[0]), c[1] + 1), (x, 0))[0]

        report = fg.explain(f)(1.0)
        (loop,) = [step for step in report.steps if step.kind == "loop"]
        assert (loop.primitive, loop.iterations, loop.note) == ("while", 4, None)
        (sin,) = named(report, "sin")
        assert sin.incoming[0].iterations["norm"][-1] == 1.0
        assert report.parameters[0].gradient.norm == pytest.approx(float(fg.grad(f)(1.0)))

    def test_a_batched_while_loop_opens(self):
        def one(x):
            return lax.while_loop(lambda c: c < 10, lambda c: c * 2, x)

        f = lambda x: jnp.sum(jax.vmap(one)(x))  # noqa: E731
        report = fg.explain(f)(jnp.array([1.0, 3.0]))
        (loop,) = [step for step in report.steps if step.kind == "loop"]
        assert loop.iterations == 4
        assert report.parameters[0].gradient.max == 16.0

    def test_a_while_loop_of_too_many_iterations_is_one_step_that_says_so(self):
        def f(x):
            return lax.while_loop(lambda c: c[1] < 10_001, lambda c: (c[0] * 1.0, c[1] + 1), (x, 0))[0]

        (loop,) = fg.explain(f)(1.0).steps
        assert loop.children == [] and loop.note.startswith("not opened")

    def test_a_custom_vjp_function_is_one_step(self):
        @jax.custom_vjp
        def f(x):
            return x

        f.defvjp(lambda x: (x, x), lambda x, ct: (ct * x,))
        (step,) = fg.explain(lambda x: f(x))(3.0).steps
        assert step.kind == "custom" and step.outgoing[0].norm == 3.0

    def test_rules_of_functions_hold(self):
        rules = fg.rules.default.override({jnp.clip: lambda ct: 7 * ct})
        report = fg.explain(lambda x: jnp.clip(x, 0, 1), rules=rules)(3.0)
        assert report.parameters[0].gradient.norm == 7.0

    def test_mutable_references_stay_closed_and_right(self):
        def f(x):
            ref = jax.new_ref(jnp.zeros(()))

            @jax.jit
            def add(x):
                ref[...] += x * x

            add(x)
            return ref[...]

        assert fg.explain(f)(3.0).parameters[0].gradient.norm == 6.0


class TestFlags:
    def test_nothing_is_flagged_but_memory_where_all_is_well(self):
        assert set(kinds(fg.explain(model)(params(), X))) <= {"memory"}

    def test_a_parameter_that_the_result_does_not_depend_on(self):
        report = fg.explain(model)({**params(), "unused": jnp.ones(2)}, X)
        (flag,) = [f for f in report.flags if f.kind == "no_gradient"]
        assert "params['unused']" in flag.message and report.parameters[flag.parameters[0]].gradient is None

    def test_a_parameter_that_is_cut_off_because_its_value_left_the_tape(self):
        def loss(p, x):
            scale = jnp.tanh(x * p["w"]).item()  # the first line
            if p["sign"] > 0:
                return p["v"] * scale
            return p["v"] * p["unused"]

        leaves = {name: jnp.float32(1.0) for name in ("w", "sign", "v", "unused")}
        report = fg.explain(loss)(leaves, jnp.float32(0.3))
        flags = {
            f.message.split("reaches ")[1].split(":")[0]: f.message for f in report.flags if f.kind == "no_gradient"
        }
        first = loss.__code__.co_firstlineno + 1
        assert f"cut off by a conversion to a number at test_explain.py:{first}," in flags["p['w']"]
        assert f"cut off by a decision in Python at test_explain.py:{first + 1}," in flags["p['sign']"]
        assert "the result does not depend on it" in flags["p['unused']"]

    def test_a_parameter_whose_gradient_is_zero(self):
        report = fg.explain(lambda w: jnp.sum(jnp.round(w)))(jnp.ones(3))
        assert "no_gradient" in kinds(report)

    def test_cotangents_that_vanish_along_the_layers(self):
        def deep(ws, x):
            for w in ws:
                x = jax.nn.sigmoid(w * x)
            return x

        assert "vanishing" in kinds(fg.explain(deep)([0.5] * 8, 1.0))
        assert "vanishing" not in kinds(fg.explain(deep)([4.0] * 2, 1.0))

    def test_cotangents_that_explode_along_the_layers(self):
        def deep(ws, x):
            for w in ws:
                x = w * x
            return x

        assert "exploding" in kinds(fg.explain(deep)([10.0] * 8, 1.0))

    @pytest.mark.parametrize(("w", "kind"), [(0.1, "vanishing"), (10.0, "exploding")])
    def test_cotangents_that_change_along_a_loop(self, w, kind):
        f = lambda w: lax.scan(lambda c, _: (w * c, None), 1.0, None, length=8)[0]  # noqa: E731
        assert kind in kinds(fg.explain(f)(w))

    def test_dead_units(self):
        def f(w, x):
            return jnp.sum(jax.nn.relu(x @ w - 1.0))

        w = jnp.array([[1.0, -1.0, 1.0, -1.0]])
        report = fg.explain(f)(w, 2 * jnp.ones((5, 1)))
        (flag,) = [f for f in report.flags if f.kind == "dead"]
        assert "2 of 4 units" in flag.message
        assert report.steps[flag.steps[0]].place.line == line_of(f, "relu")

    def test_splitting_an_array_kills_no_units(self):
        f = lambda x: jnp.sum(jnp.split(x, 2, axis=-1)[0] ** 2)  # noqa: E731
        assert "dead" not in kinds(fg.explain(f)(jnp.ones((3, 4))))

    def test_a_dtype_that_loses_precision(self):
        f = lambda x: jnp.sum(x.astype(jnp.bfloat16))  # noqa: E731
        (flag,) = [f for f in fg.explain(f)(jnp.ones(3)).flags if f.kind == "precision"]
        assert "bfloat16" in flag.message and "24" in flag.message

    def test_cotangents_that_underflow(self):
        f = lambda x: jnp.sum((x * jnp.float16(1e-4)) * jnp.float16(1e-4))  # noqa: E731
        messages = [f.message for f in fg.explain(f)(jnp.ones(3, jnp.float16)).flags if f.kind == "precision"]
        assert any("too small" in message for message in messages)

    def test_the_step_that_made_what_is_not_finite(self):
        report = fg.explain(lambda x: jnp.sum(jnp.sqrt(x)))(jnp.array([1.0, 0.0]))
        (flag,) = [f for f in report.flags if f.kind == "nonfinite"]
        assert flag.severity == "error" and report.flags[0] is flag
        assert [report.steps[i].primitive for i in flag.steps] == ["sqrt"]

    def test_lines_that_hold_most_memory(self):
        def f(x):
            big = jnp.exp(jnp.tile(x, 100))
            return jnp.sum(jnp.sin(x)) + jnp.sum(big)

        (flag,) = [f for f in fg.explain(f)(jnp.ones(3)).flags if f.kind == "memory"]
        report = fg.explain(f)(jnp.ones(3))
        assert [report.lines[i].line for i in flag.lines] == [line_of(f, "big = ")]


class TestText:
    def test_a_table_of_lines_with_totals(self):
        text = str(fg.explain(model)(params(), X))
        assert f"test_explain.py:{line_of(model, 'jnp.tanh')}" in text
        assert "hidden = jnp.tanh" in text and "ct * y" in text
        assert any(line.startswith("total") and " 5 " in line for line in text.splitlines())
        assert "params['scale']" in text

    @pytest.mark.parametrize("columns", [40, 80, 300])
    def test_fits_a_terminal(self, monkeypatch, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        long = {"a_very_long_name_of_a_parameter_" * 4: jnp.ones(2), "unused": jnp.ones(3)}
        text = str(
            fg.explain(lambda p: jnp.sum(sum(map(jnp.sum, p.values())) * jnp.sin(1.0) + jnp.cos(2.0) * 3.0))(long)
        )
        assert max(map(len, text.splitlines())) <= min(max(columns, 80), 120)

    def test_html_escapes_what_comes_from_the_program(self):
        report = fg.explain(lambda p: p["<b>"] * 2)({"<b>": 1.0})
        assert "&lt;b&gt;" in report._repr_html_() and "<b>'" not in report._repr_html_()

    def test_a_dict_is_json_and_ids_are_indices(self):
        report = fg.explain(recurrent)(0.5, jnp.ones((4, 2)))
        data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        for name in ("steps", "lines", "variables", "parameters", "flags", "files"):
            assert [x["id"] for x in data[name]] == list(range(len(data[name])))
        (file,) = [f for f in data["files"] if f["path"] == __file__]
        assert "def recurrent" in file["text"]
        for step in data["steps"]:
            assert all(data["steps"][child]["parent"] == step["id"] for child in step["children"])
            assert len(step["operands"]) == len(step["outgoing"]) and len(step["outputs"]) == len(step["incoming"])

    def test_a_dict_of_what_is_not_finite_is_json_too(self):
        json.dumps(fg.explain(lambda x: 1 / x)(0.0).to_dict(), allow_nan=False)

    def test_pictures_have_two_parts(self):
        figure = fg.explain(model)(params(), X).plot()
        depth, memory = figure.axes
        assert len(depth.lines[0].get_xdata()) == 5
        kept = memory.lines[0].get_ydata()
        assert max(kept) == 48 and kept[0] == kept[-1] == 0

    def test_the_page_is_written(self, tmp_path):
        fg.explain(model)(params(), X).to_html(tmp_path / "report.html")
        assert "params['scale']" in (tmp_path / "report.html").read_text()


class TestCalls:
    def test_runs_the_function_once(self):
        calls = []

        def f(x):
            calls.append(x)
            return x * 2

        fg.explain(f)(1.0)
        assert len(calls) == 1

    def test_a_result_that_is_no_scalar_starts_from_ones(self):
        report = fg.explain(lambda x: x * 3)(jnp.ones(4))
        assert report.seed == "ones" and "cotangent of ones" in str(report)
        assert report.parameters[0].gradient.norm == 6

    def test_auxiliary_output_and_keywords(self):
        report = fg.explain(lambda x, *, k: (x * k, "aux"), has_aux=True)(2.0, k=5.0)
        assert report.parameters[0].gradient.norm == 5

    def test_python_control_flow_on_values_works(self):
        assert fg.explain(lambda x: x * 2 if x > 0 else x * 3)(-1.0).parameters[0].gradient.norm == 3

    @pytest.mark.parametrize("transform", [jax.jit, jax.vmap, fg.grad])
    def test_traced_it_says_that_there_are_no_numbers(self, transform):
        with pytest.raises(TypeError, match="there are none yet"):
            transform(lambda x: fg.explain(jnp.sin)(x))(jnp.ones(2) if transform is jax.vmap else 1.0)

    def test_integer_arguments_are_refused_as_by_grad(self):
        with pytest.raises(TypeError, match="explain requires real- or complex-valued inputs"):
            fg.explain(lambda n: n * 2.0)(3)

    def test_ten_thousand_operations(self):
        def f(x):
            for _ in range(5000):
                x = jnp.sin(x) * 1.0001
            return x

        report = fg.explain(f)(1.0)
        assert len(report.steps) == 10_000
        assert len(str(report).splitlines()) < 30
        assert report.steps[-1].incoming[0].norm < 1e-3 and "vanishing" in kinds(report)

    def test_lets_go_of_what_was_kept(self):
        jax.clear_caches()
        before = len(jax.live_arrays())
        report = fg.explain(model)(params(), X)
        gc.collect()
        assert len(jax.live_arrays()) <= before + 8, report
