"""The hunt for the operation that made the first NaN or infinity."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg


def find(fun, *args, **options):
    return fg.find_nonfinite(fun, **options)(*args)


def summary(found):
    return found.primitive, found.direction


def line_of(function, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


V = jnp.array([4.0, 0.0, 1.0])


class TestTraps:
    """Each trap as people fall into it: the operation, the direction, and a word of the hint."""

    @pytest.mark.parametrize(
        ("fun", "x", "wanted", "word"),
        [
            (lambda x: jnp.sum(jnp.sqrt(x)), V, ("sqrt", "backward"), "square root"),
            (jnp.linalg.norm, jnp.zeros(3), ("sqrt", "backward"), "norm"),
            (jnp.std, jnp.ones(3), ("sqrt", "backward"), "standard deviation"),
            (lambda x: jnp.sum(jnp.where(x > 0, jnp.log(x), 0.0)), V, ("log", "backward"), "jnp.where"),
            (lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0)), V, ("sqrt", "backward"), "jnp.where"),
            (lambda x: jnp.sum(jnp.where(x > 0, 1 / x, 0.0)), V, ("div", "forward"), "denominator"),
            (lambda x: jnp.sum(jnp.where(x < 50, jnp.exp(x), x)), 100 * V, ("exp", "forward"), "overflows"),
            (lambda x: jnp.sum(jnp.log(x)), V, ("log", "forward"), "logarithm of zero"),
            (lambda x: jnp.sum(jnp.log(-x)), V + 1, ("log", "forward"), "negative"),
            (lambda x: jnp.sum(x / jnp.sum(x)), jnp.zeros(2), ("div", "forward"), "Zero divided by zero"),
            (lambda x: jnp.sum(jnp.exp(x)), 100 * V, ("exp", "forward"), "overflows"),
            (lambda x: jnp.sum(jnp.sqrt(x - 2)), V, ("sqrt", "forward"), "negative"),
            (lambda x: jnp.sum(x**0.5), V, ("pow", "backward"), "power"),
            (lambda x: jnp.sum(x**-1.5), V, ("pow", "forward"), "negative power"),
            (lambda x: jnp.sum(jnp.arctan2(x, x)), jnp.zeros(2), ("atan2", "backward"), "angle"),
            (lambda x: jnp.sum(jnp.arccos(x)), jnp.array([0.0, 2.0]), ("acos", "forward"), "from -1 to 1"),
            (lambda x: jnp.sum(jnp.arcsin(x)), jnp.array([0.0, 1.0]), ("asin", "backward"), "end of its domain"),
            (lambda x: jnp.sum(x * jnp.exp(x * 100)), jnp.array([-0.0, 1.0]), ("exp", "forward"), "softplus"),
            (lambda x: jnp.sum(x * x), jnp.full(2, 300, jnp.float16), ("mul", "forward"), "65504"),
            (
                lambda x: jnp.sum(x.astype(jnp.float16)),
                jnp.full(2, 1e5),
                ("convert_element_type", "forward"),
                "float16",
            ),
            (lambda x: jnp.sum(jnp.linalg.cholesky(x)), -jnp.eye(2), ("cholesky", "forward"), "positive definite"),
            (lambda x: jnp.sum(jnp.linalg.eigh(x)[1]), jnp.eye(2), ("eigh", "backward"), "Equal eigenvalues"),
        ],
    )
    def test_is_found_and_explained(self, fun, x, wanted, word):
        found = find(fun, x)
        assert summary(found) == wanted
        assert word in found.hint and word in str(found)

    @pytest.mark.parametrize(
        ("fun", "x"),
        [
            (lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)), V),
            (lambda x: jnp.sum(jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), 0.0)), V),
            (lambda x: jnp.sqrt(jnp.sum(x**2) + 1e-12), jnp.zeros(3)),
            (lambda x: jax.nn.logsumexp(x), 1e4 * V),
            (lambda x: jnp.sum(jax.nn.softplus(x)), 1e4 * V),
            (lambda x: jnp.sum(jnp.nan_to_num(jnp.log(lax.stop_gradient(x)))) + jnp.sum(x), V),
        ],
    )
    def test_that_was_avoided_is_not(self, fun, x):
        assert find(fun, x) is None


def attention(x, mask):
    scores = jnp.where(mask, x @ x.T, -jnp.inf)
    return jnp.sum(jax.nn.softmax(scores, axis=-1) @ x)


class TestInfinities:
    def test_masked_on_purpose_are_not_found(self):
        x = jnp.arange(6.0).reshape(3, 2)
        assert find(attention, x, jnp.tril(jnp.ones((3, 3), bool))) is None

    def test_that_make_a_nan_are_found_where_they_do(self):
        mask = jnp.tril(jnp.ones((3, 3), bool)).at[0].set(False)
        found = find(attention, jnp.arange(6.0).reshape(3, 2), mask)
        assert summary(found) == ("sub", "forward") and "all -inf" in found.hint
        assert found.line == line_of(attention, "softmax") and found.index == (0, 0)

    def test_that_were_made_before_they_made_a_nan_are_found_where_they_were_made(self):
        def f(x):
            big = jnp.exp(x)
            return jnp.sum(big - big)

        found = find(f, 100 * V)
        assert summary(found) == ("exp", "forward") and found.line == line_of(f, "jnp.exp")

    def test_beside_the_culprit_are_passed_over(self):
        def f(x):
            masked = jnp.where(x > 2, jnp.log(x - x), x)  # -inf in one place, on purpose
            return jnp.sum(jnp.where(x > 2, 0.0, jnp.sqrt(masked - 0.5)))  # NaN in another

        assert find(f, V).line == line_of(f, "jnp.sqrt")

    def test_in_the_arguments_are_named(self):
        found = find(lambda p: jnp.sum(p["w"] * 2), {"w": jnp.array([1.0, jnp.nan])})
        assert "args[0]['w'] is not finite to begin with" in found.hint
        found = find(lambda x: x, jnp.inf)
        assert found.primitive == "input" and "args[0]" in str(found)


class TestPlaces:
    def test_file_line_function_and_values(self):
        def f(x):
            y = x + 1
            return jnp.sum(jnp.log(y))

        found = find(f, jnp.array([0.0, -1.0, -3.0]))
        assert (found.file, found.line) == (__file__, line_of(f, "jnp.log"))
        assert found.function.endswith("f")
        assert [v.tolist() for v in found.values] == [[0.0, -2.0]]
        assert found.index == (1,) and found.count == 2 and found.operands == ("f32[3]",)

    def test_the_pullback_of_an_operation_is_at_the_operations_line(self):
        def f(x):
            root = jnp.sqrt(x)
            return jnp.sum(root * 3)

        found = find(f, V)
        assert found.line == line_of(f, "jnp.sqrt") and found.operation == "div"
        assert found.index == (1,)

    def test_a_jitted_function_is_looked_into(self):
        @jax.jit
        def inner(x):
            return jnp.log(x) * 2

        found = find(jax.jit(lambda x: jnp.sum(inner(x))), V)
        assert summary(found) == ("log", "forward") and found.line == line_of(inner.__wrapped__, "jnp.log")

    def test_the_backward_half_of_a_jitted_function_is_looked_into(self):
        @jax.jit
        def inner(x):
            return jnp.sqrt(x) * 2

        found = find(lambda x: jnp.sum(inner(x)), V)
        assert summary(found) == ("sqrt", "backward") and found.line == line_of(inner.__wrapped__, "jnp.sqrt")

    def test_a_vmapped_function_is_looked_into(self):
        def inner(x):
            return jnp.linalg.norm(x)

        found = find(lambda x: jnp.sum(jax.vmap(inner)(x)), jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        assert summary(found) == ("sqrt", "backward") and found.line == line_of(inner, "norm") and found.index == (1, 0)

    def test_a_checkpoint_is_looked_into(self):
        assert summary(find(jax.checkpoint(lambda x: jnp.sum(jnp.sqrt(x))), V)) == ("sqrt", "backward")
        assert summary(find(jax.checkpoint(lambda x: jnp.sum(jnp.log(x))), V)) == ("log", "forward")

    def test_the_branch_of_a_cond_is_looked_into(self):
        f = lambda x: lax.cond(x > 0, lambda x: x, lambda x: jnp.log(x), x)  # noqa: E731
        assert summary(find(f, -1.0)) == ("log", "forward")
        assert find(f, 1.0) is None

    def test_a_custom_vjp_functions_backward_rule_is_looked_into(self):
        @jax.custom_vjp
        def f(x):
            return x * 2

        def backward(x, ct):
            return (ct / (x - x),)

        f.defvjp(lambda x: (x * 2, x), backward)
        found = find(lambda x: jnp.sum(f(x)), V)
        assert summary(found) == ("div", "backward") and found.line == line_of(backward, "ct /")

    def test_operations_on_constants_are_looked_at(self):
        assert summary(find(lambda x: x + jnp.log(jnp.zeros(())), 1.0)) == ("log", "forward")


class TestLoops:
    def test_the_iteration_of_a_scan_is_found_forward(self):
        def body(state, x):
            return state * x, jnp.log(3.0 - x)

        found = find(lambda s: jnp.sum(lax.scan(body, s, jnp.arange(4.0))[1]), 1.0)
        assert summary(found) == ("log", "forward") and found.line == line_of(body, "jnp.log")
        assert found.iterations == (3,) and found.values[0].tolist() == [0.0]

    def test_the_iteration_of_a_scan_is_found_backward(self):
        def body(state, x):
            return jnp.sqrt(state * x), None

        found = find(lambda s: lax.scan(body, s, jnp.array([1.0, 2.0, 0.0, 1.0]))[0] + s, 1.0)
        assert summary(found) == ("sqrt", "backward") and found.line == line_of(body, "jnp.sqrt")

    def test_a_reversed_scan_counts_its_elements(self):
        body = lambda c, x: (c + jnp.log(x), None)  # noqa: E731
        found = find(lambda s: lax.scan(body, s, jnp.array([1.0, 0.0, 1.0]), reverse=True)[0], 1.0)
        assert found.iterations == (1,)

    def test_loops_in_loops_are_opened_in_turn(self):
        def inner(c, x):
            return c + jnp.log(x), None

        def outer(c, i):
            return lax.scan(inner, c, jnp.array([2.0, 1.0, 0.0]) + i)[0], None

        found = find(lambda s: lax.scan(outer, s, jnp.array([1.0, 0.0]))[0], 1.0)
        assert summary(found) == ("log", "forward") and found.iterations == (1, 2)

    def test_a_while_loop_is_looked_into_in_both_directions(self):
        def grow(c):
            return jnp.exp(c[0] * 3), c[1] + 1

        found = find(lambda x: lax.while_loop(lambda c: c[1] < 5, grow, (x, 0))[0], 1.0)
        assert summary(found) == ("exp", "forward") and found.iterations == (2,)

        def root(c):
            return jnp.sqrt(c[0]), c[1] + 1

        found = find(lambda x: lax.while_loop(lambda c: c[1] < 3, root, (x, 0))[0], 0.0)
        assert summary(found) == ("sqrt", "backward") and found.line == line_of(root, "jnp.sqrt")

    def test_an_infinity_that_a_loop_starts_from_is_not_the_cause(self):
        def running_max(c, x):
            top = jnp.maximum(c[0], x)
            return (top, c[1] + jnp.log(x)), None

        f = lambda s: lax.scan(running_max, (-jnp.inf, s), jnp.array([1.0, 2.0, 0.0]))[0][1]  # noqa: E731
        found = find(f, 1.0)
        assert summary(found) == ("log", "forward") and found.iterations == (2,)


class TestCalls:
    def test_finite_is_none(self):
        assert find(lambda x: jnp.sum(x**2), V) is None

    def test_only_the_gradients_that_are_asked_for_count(self):
        f = lambda x, y: jnp.sum(x * 2) + jnp.sum(jnp.sqrt(y))  # noqa: E731
        assert find(f, V, V) is None
        assert summary(find(f, V, V, argnums=1)) == ("sqrt", "backward")

    def test_a_result_that_is_no_scalar_starts_from_ones(self):
        assert summary(find(jnp.sqrt, V)) == ("sqrt", "backward")

    def test_rules_hold(self):
        guarded = fg.rules.default.override({lax.sqrt_p: lambda ct, out: ct * jnp.where(out > 0, 0.5 / out, 0.0)})
        assert summary(find(jnp.sqrt, V)) == ("sqrt", "backward")
        assert find(jnp.sqrt, V, rules=guarded) is None

    def test_functions_that_stage_values_and_use_references_run(self):
        def f(x):
            ref = jax.new_ref(jnp.zeros(3))
            ref[...] += x.at[0].add(1.0)
            return jnp.sum(jnp.sqrt(ref[...]))

        assert summary(find(f, V)) == ("sqrt", "backward")
        assert find(f, V + 1) is None

    def test_what_was_written_to_a_reference_is_followed_through_it(self):
        def f(x):
            ref = jax.new_ref(jnp.zeros(3))
            ref[...] = jnp.log(x)
            return jnp.sum(ref[...] * 2)

        assert summary(find(f, V)) == ("log", "forward")

    @pytest.mark.parametrize("f", [lambda x: jnp.nanmean(x**2), lambda x: jnp.sum(jnp.exp(x)), lambda x: x @ x])
    @pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
    def test_what_was_given_is_not_said_to_be_made(self, f, value):
        found = find(f, jnp.arange(5.0).at[1].set(value))
        assert f"The first {'NaN' if jnp.isnan(value) else 'infinity'} was given" in str(found)
        assert found.hint == "args[0] is not finite to begin with."

    def test_a_constant_that_is_not_finite_is_said_to_be_given(self):
        assert "or put in as a constant" in find(lambda x: jnp.sum(x * jnp.float32(jnp.inf)), jnp.ones(3)).hint

    def test_traced_values_are_refused(self):
        with pytest.raises(TypeError, match="outside of jit"):
            jax.jit(fg.find_nonfinite(jnp.sin))(1.0)
