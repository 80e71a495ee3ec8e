"""Spellings of operations of many parameters: windows, linear algebra, randomness, devices, references."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import Literal, Var
from funcgrad.inspect.source.expressions import assign, call, static
from funcgrad.inspect.source.program import Equation
from funcgrad.inspect.source.spelling import BOUND, Names, Spelling

WINDOW = """window_dimensions={tuple(window_dimensions)}, window_strides={tuple(window_strides)},
    padding={tuples(padding) if np.any(padding) else None},
    base_dilation={unless(1, base_dilation)}, window_dilation={unless(1, window_dilation)}"""


def keywords(names: Sequence[str]) -> str:
    return ", ".join(f"{name}={{{name}}}" for name in names)


def approx_top_k(names: Names, eqn: Equation) -> str:
    rest = keywords([name for name in eqn.params if name not in ("is_max_k", "k")])
    return f"lax.approx_{'max' if eqn.params['is_max_k'] else 'min'}_k(x, {{k}}, {rest})"


# Randomness.


def over_keys(function: str, *args: str) -> Spelling:
    """A function of a key, or of each of an array of them."""

    def spell(names: Names, eqn: Equation) -> str:
        given, ndim = ", ".join(args), eqn.inputs[0].aval.ndim
        if not ndim:
            return f"{function}(x, {given})"
        return f"{'jax.vmap(' * ndim}lambda key: {function}(key, {given}){')' * ndim}(x)"

    return spell


# References.


def place_in(names: Names, eqn: Equation, leaves: Sequence[Any]) -> ast.expr:
    """The index of a part of a reference."""
    indexers = _jax.indices_of(eqn.params["tree"], leaves)
    if not indexers:
        return ast.Constant(...)
    if len(indexers) > 1:
        raise NotImplementedError("a view of a view of a reference cannot be written as source.")
    parts: list[ast.expr] = []
    for index in indexers[0].indices:
        if isinstance(index, Var | Literal):
            parts.append(names.bare(index))
        elif hasattr(index, "start"):
            start, stride = index.start, getattr(index, "stride", 1)
            if isinstance(start, Var | Literal):
                raise NotImplementedError("a slice of a reference from where a value says cannot be written as source.")
            stop = static(start + (index.size - 1) * stride + 1)
            parts.append(ast.Slice(static(start) if start else None, stop, static(stride) if stride != 1 else None))
        else:
            parts.append(static(int(index)))
    return parts[0] if len(parts) == 1 else ast.Tuple(parts)


def ref_get(names: Names, eqn: Equation) -> ast.expr:
    ref, *leaves = eqn.inputs
    return ast.Subscript(names.typed(ref), place_in(names, eqn, leaves))


def ref_swap(block: Any, eqn: Equation) -> None:
    ref, value, *leaves = eqn.inputs
    place, (out,) = place_in(block, eqn, leaves), eqn.outputs
    if block.uses[out]:
        given = [block.typed(ref), Indices().visit(place), block.typed(value)]
        block.body.append(assign([block.target(out, "old")], call("jax.ref.swap", given)))
    else:
        block.body.append(assign([ast.Subscript(block.typed(ref), place)], block.typed(value)))


class Indices(ast.NodeTransformer):
    """Slices as they are written where they are arguments."""

    def visit_Slice(self, node: ast.Slice) -> ast.expr:
        ends = [ast.Constant(None) if x is None else x for x in (node.lower, node.upper)]
        return ast.Call(ast.Name("slice"), [*ends, *([node.step] if node.step else [])], [])


def ref_add(block: Any, eqn: Equation) -> None:
    ref, value, *leaves = eqn.inputs
    place = ast.Subscript(block.typed(ref), place_in(block, eqn, leaves))
    block.body.append(ast.AugAssign(place, ast.Add(), block.typed(value)))


WRITERS = {"swap": ref_swap, "addupdate": ref_add}

GROUPS = "axis_index_groups={params.get('axis_index_groups')}"
GATHERED = f"{{short(axis_name)}}, {GROUPS}, axis={{all_gather_dimension}}, tiled={{tiled}}"
SCATTERED = f"lax.psum_scatter(x, {{short(axis_name)}}, {GROUPS}, {keywords(['scatter_dimension', 'tiled'])})"
SOLVER = "{function(programs[0], 'matvec', 1)}, packed, {function(programs[1], 'solve', 1, 1)}"
TRANSPOSED = "transpose_solve={programs[2] and function(programs[2], 'transpose_solve', 1, 1)}"
AXES = "short(params.get('axes', params.get('axis_name')))"

#: What is done to each operand by itself.
EACH = {
    **dict.fromkeys(("psum", "psum_invariant", "unreduced_psum"), f"lax.psum(x, {{{AXES}}}, {GROUPS})"),
    **{name: f"lax.{name}(x, {{{AXES}}}, {GROUPS})" for name in ("pmax", "pmin")},
    "ppermute": "lax.ppermute(x, {short(axis_name)}, {tuples(perm)})",
    "all_to_all": f"""lax.all_to_all(
        x, {{short(axis_name)}}, {{split_axis}}, {{concat_axis}}, {GROUPS}, tiled={{tiled}})""",
    "all_gather": f"lax.all_gather(x, {GATHERED})",
    "all_gather_invariant": f'lax.all_gather(x, {GATHERED}, to="invarying")',
    "all_gather_reduced": f'lax.all_gather(x, {GATHERED}, to="reduced")',
    "reduce_scatter": SCATTERED,
    "unreduced_reduce_scatter": SCATTERED,
    "pvary": f'lax.pcast(x, {{{AXES}}}, to="varying")',
    "preduced": f'lax.pcast(x, {{{AXES}}}, to="reduced")',
    **dict.fromkeys(("reduced_vary_cast_p", "reduced_vary_cast"), f'lax.pcast(x, {{{AXES}}}, to="varying")'),
    **dict.fromkeys(("vary_unreduced_cast_p", "vary_unreduced_cast"), f'lax.pcast(x, {{{AXES}}}, to="unreduced")'),
}

SPELLINGS: dict[str, Spelling] = {
    "sort": "lax.sort(packed, dimension={dimension}, is_stable={is_stable}, num_keys={num_keys})",
    "top_k": "lax.top_k(x, {k}, axis={None if axis in (-1, x_aval.ndim - 1) else axis})",
    "approx_top_k": approx_top_k,
    "conv_general_dilated": """lax.conv_general_dilated(
        *xs, window_strides={tuple(window_strides)}, padding={tuples(padding)},
        lhs_dilation={unless(1, lhs_dilation)}, rhs_dilation={unless(1, rhs_dilation)},
        dimension_numbers={None if {*map(tuple, dimension_numbers)} == {(*range(x_aval.ndim),)} else dimension_numbers},
        feature_group_count={feature_group_count}, batch_group_count={batch_group_count}, precision={precision},
        preferred_element_type={preferred_element_type}, out_sharding={params.get('out_sharding')})""",
    "reduce_window_sum": f"lax.reduce_window(x, {{x_aval.dtype}}(0), lax.add, {WINDOW})",
    "reduce_window_max": f"lax.reduce_window(x, {{x_aval.dtype}}({{limits(x_aval.dtype)[0]}}), lax.max, {WINDOW})",
    "reduce_window_min": f"lax.reduce_window(x, {{x_aval.dtype}}({{limits(x_aval.dtype)[1]}}), lax.min, {WINDOW})",
    "reduce": "lax.reduce(first, second, {function(jaxpr, 'combine', 2)}, {tuple(dimensions)})",
    "reduce_window": f"lax.reduce_window(first, second, {{function(jaxpr, 'combine', 2)}}, {WINDOW})",
    "custom_linear_solve": f"lax.custom_linear_solve({SOLVER}, {TRANSPOSED})",
    "fft": "lax.fft(x, {lax.FftType(fft_type)}, {tuple(fft_lengths)})",
    "ragged_dot_general": """lax.ragged_dot_general(
        *xs, ragged_dot_dimension_numbers={ragged_dot_dimension_numbers}, precision={precision},
        preferred_element_type={preferred_element_type}, out_sharding={params.get('out_sharding')})""",
    "cholesky": "lax.linalg.cholesky(x, symmetrize_input=False)",
    "triangular_solve": """lax.linalg.triangular_solve(
        x, y, left_side={left_side}, lower={lower}, transpose_a={transpose_a}, conjugate_a={conjugate_a},
        unit_diagonal={unit_diagonal})""",
    "lu": "lax.linalg.lu(x)",
    "qr": """lax.linalg.qr(
        x, pivoting={pivoting}, full_matrices={full_matrices}, use_magma={params.get('use_magma')})""",
    "random_seed": "jax.random.key(x, impl={str(impl.name)})",
    "random_wrap": "jax.random.wrap_key_data(x, impl={str(impl.name)})",
    "random_unwrap": "jax.random.key_data(x)",
    "random_bits": over_keys("jax.random.bits", "{tuple(shape)}", "{np.dtype(f'uint{bit_width}')}"),
    "random_split": over_keys("jax.random.split", "{short(tuple(shape))}"),
    "random_fold_in": lambda names, eqn: BOUND if eqn.inputs[0].aval.shape else "jax.random.fold_in(x, y)",
    "device_put": "jax.device_put(packed, {short(devices)})",
    "sharding_constraint": "lax.with_sharding_constraint(x, {sharding})",
    "optimization_barrier": "lax.optimization_barrier(packed)",
    "reshard": "jax.sharding.reshard(x, {dst_sharding})",
    "shard_map": """jax.shard_map(
        {function(jaxpr, 'per_device')}, mesh={mesh}, in_specs={tuple(in_specs)}, out_specs={short(tuple(out_specs))},
        axis_names={some_of(params.get('newly_manual_axes', params.get('manual_axes')), mesh.axis_names)},
        check_vma={check_vma})(*xs)""",
    **dict.fromkeys(("new_ref", "ref"), lambda names, eqn: f"jax.new_ref(x, {keywords(list(eqn.params))})"),
    "empty_ref": "jax.empty_ref(jax.ShapeDtypeStruct({ty.shape}, {ty.dtype}))",
    "get": ref_get,
    "freeze": "jax.freeze(x)",
}
