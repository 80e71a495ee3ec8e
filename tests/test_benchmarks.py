"""The benchmarked programs have the gradients they are timed for, and what is reported is what was measured."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg
from benchmarks import flops, gradients, layers, measure, page, tables
from benchmarks.__main__ import main
from benchmarks.measure import Comparison, compare, growth
from benchmarks.results import Cost, Report, Result, Step
from benchmarks.workloads import registry

DYNAMIC = ("neural-ode", "particle")


@functools.cache
def reference(name):
    return gradients.reference(registry[name], registry[name].tiny)


@pytest.mark.parametrize("name", registry)
def test_a_workloads_gradient_equals_jaxs(name):
    args, theirs = reference(name)
    with jax.enable_x64(True):
        ours = gradients.quick_jit(gradients.with_funcgrad(registry[name]))(*args)
    assert gradients.difference(ours, theirs) < gradients.DOUBLE


@pytest.mark.parametrize("name", [name for name, workload in registry.items() if callable(workload.torch)])
def test_pytorchs_counterpart_has_the_same_loss_and_gradient(name, torch):
    args, theirs = reference(name)
    assert gradients.difference(gradients.with_torch(registry[name], args)(), theirs) < gradients.DOUBLE


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_dynamic_loop_has_the_derivative_that_forward_mode_finds(name):
    workload = registry[name]
    args = workload.example(workload.tiny)
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.grad(workload.loss)(*args)
    ours = gradients.quick_jit(gradients.with_funcgrad(workload))(*args)
    gradients.require_along_itself(workload, args, ours, 1e-4, name)
    value, gradient = ours
    with pytest.raises(gradients.Mismatch, match="differ by"):
        gradients.require_along_itself(workload, args, (value, jax.tree.map(lambda x: 2 * x, gradient)), 1e-4, name)


def test_the_gradient_through_equal_layers_equals_jaxs():
    args, loss = layers.example(3), layers.loss()
    ours, theirs = (gradients.quick_jit(grad(loss))(*args) for grad in (fg.grad, jax.grad))
    assert gradients.difference(ours, theirs) < 1e-5


def test_a_wrong_gradient_ends_the_run():
    def another(params, x, y):
        return 1.001 * registry["line-fit"].loss(params, x, y)

    line = dataclasses.replace(registry["line-fit"], bounded=another)
    with pytest.raises(gradients.Mismatch, match="line of 3 points: the gradients differ by"):
        gradients.check("line", line, 3, torch=False)


def test_a_nan_is_a_difference():
    assert gradients.difference([np.nan], [1.0]) == np.inf


# Measuring


def test_a_comparison_takes_its_ratio_within_each_turn_and_alternates_who_is_first(monkeypatch):
    calls = []
    seconds = {"reference": iter([9.0, 1.0, 10.0, 3.0]), "ours": iter([9.0, 2.0, 20.0, 6.0])}

    def timed(call, repeats, prepared):
        calls.append(call)
        return next(seconds[call])

    monkeypatch.setattr(measure, "timed", timed)
    measured = compare("reference", "ours", budget=0, least=3)
    assert measured.ratio == pytest.approx(2.0)
    assert (measured.reference, measured.ours) == (3.0, 6.0)
    assert calls[2:] == ["reference", "ours", "ours", "reference", "reference", "ours"]


def test_a_comparison_stops_at_its_budget_and_at_its_most_turns():
    count = itertools.count()
    compare(lambda: next(count), lambda: None, budget=0.0, least=1)
    assert next(count) > 1  # once to warm up, then as often as it takes to be seen by the clock
    turns = []
    compare(lambda: lambda: turns.append(1), lambda: lambda: None, budget=1e9, most=4, prepared=True)
    assert len(turns) == 4


def test_growth_is_the_exponent_of_a_power():
    assert growth([1, 10, 100], [3.0, 3.0 * 10**1.5, 3.0 * 10**3]) == pytest.approx(1.5)


def test_flops_count_a_loops_body_as_often_as_it_runs():
    w = jnp.ones((8, 16))

    def counted(fun):
        return flops.count(jax.jit(fun).lower(w).compile().as_text())

    once = counted(lambda w: jnp.tanh(w @ w.T))
    assert once == 2 * 8 * 8 * 16 + 8 * 8
    start = jnp.eye(8)
    loop = counted(lambda w: jax.lax.fori_loop(0, 50, lambda i, x: x @ (w @ w.T), start))
    assert 50 * 2 * 8**3 <= loop <= 50 * (2 * 8**3 + 2 * 8 * 8 * 16)
    branches = counted(lambda w: jax.lax.cond(w[0, 0] > 0, lambda: (w @ w.T).sum(), lambda: 0.0))
    assert 2 * 8 * 8 * 16 <= branches <= 2 * 8 * 8 * 16 + 64


def test_flops_of_a_loop_that_runs_as_often_as_its_data_say_are_not_known():
    dynamic = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: 2 * x, x)).lower(1.0).compile()
    assert flops.count(dynamic.as_text()) is None


def test_flops_count_a_contraction_that_was_handed_to_a_library():
    text = """ENTRY %main (a: f32[4,32], b: f32[32,8]) -> f32[4,8] {
      %a = f32[4,32]{1,0} parameter(0)
      %b = f32[32,8]{1,0} parameter(1)
      %gemm = (f32[4,8]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
      ROOT %out = f32[4,8]{1,0} get-tuple-element(%gemm), index=0
    }"""  # noqa: E501
    assert flops.count(text.replace("    }", "}")) == 2 * 4 * 8 * 32


# Reporting


@pytest.fixture
def report():
    measured = Comparison(2.0, 1.0, 0.5, 0.4, 0.6)
    behind = Comparison(1.0, 2.0, 2.0, 1.9, 2.1)
    steps = [
        Step(100, measured, behind, None, Cost(10, 5, 4096), Cost(10, 5, 2048)),
        Step(200, measured, None, measured, Cost(20, 5, 4096), None),
    ]
    result = Result("some", "points", [100], "", 100, measured, measured, behind, steps)
    return Report({"command": "python"}, {"cpu": [result]}, [0.02, 0.01, 0.03], {"funcgrad": measured, "jax": behind})


def test_a_report_survives_being_written_and_read(report, tmp_path):
    report.write(tmp_path / "run.json")
    assert Report.read(tmp_path / "run.json") == report


def test_the_page_shows_what_is_behind_in_bold_and_what_was_not_measured_as_a_dash(report):
    text = page.text(report)
    assert (
        "| some | 100 points | 0.50 | 0.50 | **2.00** | **2.00 (1.90 .. 2.10)** | 1.00 | **2.00** | - | 0.50 |" in text
    )
    assert "|  | 200 points | 2 s | - | 1 s | - | 0.50 | 0.50 | - | 4 KiB | - |" in text
    assert "20 ms after JAX and optax" in text


def test_every_row_has_a_cell_for_each_column(report):
    (results,) = report.devices.values()
    for header, rows in (
        (tables.SUMMARY, tables.summary), (tables.STEPS, tables.steps), (tables.OVERHEADS, tables.overheads)
    ):  # fmt: skip
        assert {len(row) for row in rows(results)} == {len(header)}


def test_the_command_measures_writes_and_draws(tmp_path, capsys):
    written, picture = tmp_path / "run.json", tmp_path / "run.png"
    assert main(["table", "--quick", "--json", str(written), "--picture", str(picture)]) == 0
    assert "table" in capsys.readouterr().out
    ((result,),) = Report.read(written).devices.values()
    (step,) = result.steps
    assert (result.name, step.size) == ("table", registry["table"].sizes[0])
    assert step.forward.ours > 0 and step.cost.flops > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_ends_with_a_message_where_gradients_differ(monkeypatch, capsys):
    def wrong(*args, **kwargs):
        raise gradients.Mismatch("lstm of 1 sequences: the gradients differ")

    monkeypatch.setattr(gradients, "check", wrong)
    assert main(["lstm", "--quick"]) == 1
    assert "lstm of 1 sequences: the gradients differ" in capsys.readouterr().out
