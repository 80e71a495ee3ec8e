"""Operations of many parameters as calls: indexing, windows, linear algebra, randomness, devices, references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _jax
from funcgrad._jax import Literal, Var
from funcgrad.inspect.source import indexing
from funcgrad.inspect.source.calls import SPELLINGS, Names, Spelling, bound, size
from funcgrad.inspect.source.program import Equation
from funcgrad.inspect.source.static import dtype_text, quoted, static_text
from funcgrad.inspect.source.text import Text, call, tuple_of


def keyworded(function: str, *shown: str, defaults: Mapping[str, Any] | None = None, **renamed: str) -> Spelling:
    """A call of operands and then parameters as keywords; those that have their default are left out.

    Besides the parameters ``shown``, those of other names by the name of the keyword.
    """
    known = {name: name for name in shown} | {value: key for key, value in renamed.items()}

    def spell(names: Names, eqn: Equation) -> Text:
        given = {}
        for name, keyword in known.items():
            value = eqn.params.get(name)
            if value != (defaults or {}).get(name):
                given[keyword] = static_text(value)
        return call(function, *[names.typed(x) for x in eqn.inputs], **given)

    return spell


def sort(names: Names, eqn: Equation) -> Text:
    items = packed([names.typed(x) for x in eqn.inputs])
    params = eqn.params
    given = {"dimension": static_text(params["dimension"])}
    if not params["is_stable"]:
        given["is_stable"] = "False"
    if params["num_keys"] != 1:
        given["num_keys"] = static_text(params["num_keys"])
    return call("lax.sort", items, **given)


def top_k(names: Names, eqn: Equation) -> Text:
    (x,), axis = eqn.inputs, eqn.params["axis"]
    extra = {} if axis in (-1, len(x.aval.shape) - 1) else {"axis": axis}
    return call("lax.top_k", names.typed(x), eqn.params["k"], **extra)


def approx_top_k(names: Names, eqn: Equation) -> Text:
    params = {k: v for k, v in eqn.params.items() if k not in ("is_max_k", "k")}
    function = "lax.approx_max_k" if eqn.params["is_max_k"] else "lax.approx_min_k"
    given = {k: static_text(v) for k, v in params.items()}
    return call(function, names.typed(eqn.inputs[0]), eqn.params["k"], **given)


# Windows and convolutions.


def convolution(names: Names, eqn: Equation) -> Text:
    params = dict(eqn.params)
    ndim = len(params["window_strides"])
    given = {
        "window_strides": static_text(tuple(params["window_strides"])),
        "padding": static_text(pairs(params["padding"])),
    }
    for name in ("lhs_dilation", "rhs_dilation"):
        if tuple(params[name]) != (1,) * ndim:
            given[name] = static_text(tuple(params[name]))
    if any(tuple(spec) != tuple(range(ndim + 2)) for spec in params["dimension_numbers"]):
        given["dimension_numbers"] = static_text(params["dimension_numbers"])
    for name in ("feature_group_count", "batch_group_count"):
        if params[name] != 1:
            given[name] = params[name]
    for name in ("precision", "preferred_element_type", "out_sharding"):
        if params.get(name) is not None:
            given[name] = static_text(params[name])
    return call("lax.conv_general_dilated", *[names.typed(x) for x in eqn.inputs], **given)


def pairs(padding: Any) -> tuple:
    return tuple([tuple(map(int, pair)) for pair in padding])


def window(computation: str, initial: Callable[[Any], str]) -> Spelling:
    def spell(names: Names, eqn: Equation) -> Text:
        (x,) = eqn.inputs
        given = window_params(eqn)
        if not any(sum(pair) for pair in pairs(eqn.params["padding"])):
            del given["padding"]
        return call("lax.reduce_window", names.typed(x), initial(x.aval), computation, **given)

    return spell


def window_params(eqn: Equation) -> dict[str, str]:
    params = eqn.params
    ones = (1,) * len(params["window_dimensions"])
    given = {name: size(params[name]) for name in ("window_dimensions", "window_strides")}
    given["padding"] = static_text(pairs(params["padding"]))
    for name in ("base_dilation", "window_dilation"):
        if tuple(params.get(name, ones)) != ones:
            given[name] = size(params[name])
    return given


def zero_of(aval: Any) -> str:
    return str(call(dtype_text(aval.dtype), 0))


def extreme_of(sign: int) -> Callable[[Any], str]:
    def text(aval: Any) -> str:
        if jnp.issubdtype(aval.dtype, np.floating):
            return str(call(dtype_text(aval.dtype), "-jnp.inf" if sign < 0 else "jnp.inf"))
        if aval.dtype == np.bool_:
            return str(call("jnp.bool_", sign > 0))
        info = jnp.iinfo(aval.dtype)
        return str(call(dtype_text(aval.dtype), info.min if sign < 0 else info.max))

    return text


def select_and_scatter_add(names: Names, eqn: Equation) -> Text:
    given = {**window_params(eqn), "select_prim": f"lax.{eqn.params['select_prim']}_p"}
    return call("lax.select_and_scatter_add_p.bind", *[names.typed(x) for x in eqn.inputs], **given)


def select_and_gather_add(names: Names, eqn: Equation) -> Text:
    params = {k: static_text(v) for k, v in eqn.params.items() if k != "select_prim"}
    given = {**params, "select_prim": f"lax.{eqn.params['select_prim']}_p"}
    return call("lax.select_and_gather_add_p.bind", *[names.typed(x) for x in eqn.inputs], **given)


def reduce(names: Any, eqn: Equation) -> Text:
    half = len(eqn.inputs) // 2
    function = names.function(eqn.params["jaxpr"], "combine", groups=2)
    values, starts = [packed([names.typed(x) for x in xs]) for xs in (eqn.inputs[:half], eqn.inputs[half:])]
    return call("lax.reduce", values, starts, function, static_text(tuple(eqn.params["dimensions"])))


def reduce_window(names: Any, eqn: Equation) -> Text:
    half = len(eqn.inputs) // 2
    function = names.function(eqn.params["jaxpr"], "combine", groups=2)
    values, starts = [packed([names.typed(x) for x in xs]) for xs in (eqn.inputs[:half], eqn.inputs[half:])]
    return call("lax.reduce_window", values, starts, function, **window_params(eqn))


def packed(texts: list[Any]) -> str:
    return str(texts[0]) if len(texts) == 1 else tuple_of(texts)


# Linear algebra.


def linear_solve(names: Names, eqn: Equation) -> Text:
    matvec, solve, transpose_solve = eqn.params["programs"]
    b = packed([names.typed(x) for x in eqn.inputs])
    functions = [names.function(matvec, "matvec", groups=1), names.function(solve, "solve", groups=1, first=["_"])]
    given = {}
    if transpose_solve is not None:
        given["transpose_solve"] = names.function(transpose_solve, "transpose_solve", groups=1, first=["_"])
    return call("lax.custom_linear_solve", functions[0], b, functions[1], **given)


def cholesky(names: Names, eqn: Equation) -> Text:
    return call("lax.linalg.cholesky", names.typed(eqn.inputs[0]), symmetrize_input="False")


def fft(names: Names, eqn: Equation) -> Text:
    kind = jax.lax.FftType(eqn.params["fft_type"]).name
    return call("lax.fft", names.typed(eqn.inputs[0]), f"lax.FftType.{kind}", size(eqn.params["fft_lengths"]))


# Randomness.


def random_seed(names: Names, eqn: Equation) -> Text:
    return call("jax.random.key", names.typed(eqn.inputs[0]), impl=quoted(str(eqn.params["impl"].name)))


def random_wrap(names: Names, eqn: Equation) -> Text:
    return call("jax.random.wrap_key_data", names.typed(eqn.inputs[0]), impl=quoted(str(eqn.params["impl"].name)))


def random_bits(names: Names, eqn: Equation) -> Text:
    (key,) = eqn.inputs
    shape, width = tuple(eqn.params["shape"]), eqn.params["bit_width"]
    if key.aval.shape:
        function = call("jax.vmap", f"lambda key: jax.random.bits(key, {shape}, jnp.uint{width})")
        for _ in key.aval.shape[1:]:
            function = call("jax.vmap", function)
        return call(str(function), names.typed(key))
    return call("jax.random.bits", names.typed(key), size(shape), f"jnp.uint{width}")


def random_split(names: Names, eqn: Equation) -> Text:
    shape = tuple(eqn.params["shape"])
    count = str(shape[0]) if len(shape) == 1 else size(shape)
    (key,) = eqn.inputs
    text = names.typed(key)
    if key.aval.shape:
        function = call("jax.vmap", f"lambda key: jax.random.split(key, {count})")
        for _ in key.aval.shape[1:]:
            function = call("jax.vmap", function)
        return call(str(function), text)
    return call("jax.random.split", text, count)


def random_fold_in(names: Names, eqn: Equation) -> Text:
    key, data = eqn.inputs
    if key.aval.shape:
        return bound(names, eqn)
    return call("jax.random.fold_in", names.typed(key), names.typed(data))


# Devices.


def device_put(names: Names, eqn: Equation) -> Text:
    devices = eqn.params["devices"]
    if len(eqn.inputs) == 1:
        extra = [] if devices[0] is None else [static_text(devices[0])]
        return call("jax.device_put", names.typed(eqn.inputs[0]), *extra)
    texts = [names.typed(x) for x in eqn.inputs]
    return call("jax.device_put", tuple_of(texts), static_text(tuple(devices)))


def sharding_constraint(names: Names, eqn: Equation) -> Text:
    return call("lax.with_sharding_constraint", names.typed(eqn.inputs[0]), static_text(eqn.params["sharding"]))


def optimization_barrier(names: Names, eqn: Equation) -> Text:
    return call("lax.optimization_barrier", packed([names.typed(x) for x in eqn.inputs]))


def reshard(names: Names, eqn: Equation) -> Text:
    return call("jax.sharding.reshard", names.typed(eqn.inputs[0]), static_text(eqn.params["dst_sharding"]))


def axis_name(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    return static_text(value)


def over_axes(function: str, key: str = "axes") -> Spelling:
    """A collective of one or more values."""

    def spell(names: Names, eqn: Equation) -> Text:
        groups = eqn.params.get("axis_index_groups")
        extra = {} if groups is None else {"axis_index_groups": static_text(groups)}
        texts = [call(function, names.typed(x), axis_name(eqn.params[key]), **extra) for x in eqn.inputs]
        return Text(packed(texts))

    return spell


def ppermute(names: Names, eqn: Equation) -> Text:
    perm = static_text(tuple(map(tuple, eqn.params["perm"])))
    texts = [call("lax.ppermute", names.typed(x), axis_name(eqn.params["axis_name"]), perm) for x in eqn.inputs]
    return Text(packed(texts))


def all_to_all(names: Names, eqn: Equation) -> Text:
    params = eqn.params
    extra = (
        {} if params["axis_index_groups"] is None else {"axis_index_groups": static_text(params["axis_index_groups"])}
    )
    if params["tiled"]:
        extra["tiled"] = "True"
    x = names.typed(eqn.inputs[0])
    return call(
        "lax.all_to_all", x, axis_name(params["axis_name"]), params["split_axis"], params["concat_axis"], **extra
    )


def all_gather(to: str | None) -> Spelling:
    def spell(names: Names, eqn: Equation) -> Text:
        params = eqn.params
        extra = {"axis": params["all_gather_dimension"], "tiled": params["tiled"]}
        if params.get("axis_index_groups") is not None:
            extra["axis_index_groups"] = static_text(params["axis_index_groups"])
        if to:
            extra["to"] = quoted(to)
        texts = [call("lax.all_gather", names.typed(x), axis_name(params["axis_name"]), **extra) for x in eqn.inputs]
        return Text(packed(texts))

    return spell


def psum_scatter(names: Names, eqn: Equation) -> Text:
    params = eqn.params
    extra = {"scatter_dimension": params["scatter_dimension"], "tiled": params["tiled"]}
    if params.get("axis_index_groups") is not None:
        extra["axis_index_groups"] = static_text(params["axis_index_groups"])
    texts = [call("lax.psum_scatter", names.typed(x), axis_name(params["axis_name"]), **extra) for x in eqn.inputs]
    return Text(packed(texts))


def cast(to: str) -> Spelling:
    def spell(names: Names, eqn: Equation) -> Text:
        axes = eqn.params.get("axes", eqn.params.get("axis_name"))
        texts = [call("lax.pcast", names.typed(x), axis_name(axes), to=quoted(to)) for x in eqn.inputs]
        return Text(packed(texts))

    return spell


def shard_map(names: Any, eqn: Equation) -> Text:
    params = eqn.params
    function = names.function(params["jaxpr"], "per_device")
    given = {"mesh": static_text(params["mesh"])}
    given["in_specs"] = static_text(tuple(params["in_specs"]))
    outs = tuple(params["out_specs"])
    given["out_specs"] = static_text(outs if len(outs) != 1 else outs[0])
    axes = params.get("newly_manual_axes", params.get("manual_axes"))
    if axes is not None and set(axes) != set(params["mesh"].axis_names):
        given["axis_names"] = static_text(frozenset(axes))
    if not params["check_vma"]:
        given["check_vma"] = "False"
    return call(str(call("jax.shard_map", function, **given)), *[names.typed(x) for x in eqn.inputs])


# References.


def new_ref(names: Names, eqn: Equation) -> Text:
    extra = {k: static_text(v) for k, v in eqn.params.items() if v is not None}
    return call("jax.new_ref", names.typed(eqn.inputs[0]), **extra)


def empty_ref(names: Names, eqn: Equation) -> Text:
    ty = eqn.params["ty"]
    return call("jax.empty_ref", call("jax.ShapeDtypeStruct", size(ty.shape), dtype_text(ty.dtype)))


def place_in(names: Names, eqn: Equation, leaves: list[Any]) -> str:
    """The index of a part of a reference."""
    indexers = _jax.indices_of(eqn.params["tree"], leaves)
    if not indexers:
        return "..."
    if len(indexers) > 1:
        raise NotImplementedError("a view of a view of a reference cannot be written as source.")
    parts = []
    for index in indexers[0].indices:
        if isinstance(index, Var | Literal):
            parts.append(str(names.text(index)))
        elif hasattr(index, "start"):
            start, stride = index.start, getattr(index, "stride", 1)
            if isinstance(start, Var | Literal):
                raise NotImplementedError("a slice of a reference from where a value says cannot be written as source.")
            text = f"{start or ''}:{start + (index.size - 1) * stride + 1}"
            parts.append(text if stride == 1 else f"{text}:{stride}")
        else:
            parts.append(str(int(index)))
    return ", ".join(parts)


def ref_get(names: Names, eqn: Equation) -> Text:
    ref, *leaves = eqn.inputs
    return Text(f"{names.typed(ref)}[{place_in(names, eqn, leaves)}]")


def ref_swap(block: Any, eqn: Equation) -> list[str]:
    ref, value, *leaves = eqn.inputs
    place, target = place_in(block, eqn, leaves), block.typed(ref)
    (out,) = eqn.outputs
    if not block.uses[out]:
        return [f"{target}[{place}] = {block.typed(value)}"]
    index = place if ":" not in place else str(tuple(slices(place)))
    return [f"{block.bind(out, 'old')} = jax.ref.swap({target}, {index}, {block.typed(value)})"]


def ref_add(block: Any, eqn: Equation) -> list[str]:
    ref, value, *leaves = eqn.inputs
    return [f"{block.typed(ref)}[{place_in(block, eqn, leaves)}] += {block.typed(value)}"]


def slices(place: str) -> list[str]:
    def text(part: str) -> str:
        return f"slice({', '.join(x or 'None' for x in part.split(':'))})" if ":" in part else part

    return [text(part) for part in place.split(", ")]


def freeze(names: Names, eqn: Equation) -> Text:
    return call("jax.freeze", names.typed(eqn.inputs[0]))


#: Operations that are run for what they do.
EFFECTS: dict[str, Callable[[Any, Equation], list[str]]] = {"swap": ref_swap, "addupdate": ref_add}

SPELLINGS.update(indexing.SPELLINGS)
SPELLINGS.update({
    "sort": sort,
    "top_k": top_k,
    "approx_top_k": approx_top_k,
    "conv_general_dilated": convolution,
    "reduce_window_sum": window("lax.add", zero_of),
    "reduce_window_max": window("lax.max", extreme_of(-1)),
    "reduce_window_min": window("lax.min", extreme_of(1)),
    "select_and_scatter_add": select_and_scatter_add,
    "select_and_gather_add": select_and_gather_add,
    "reduce": reduce,
    "reduce_window": reduce_window,
    "custom_linear_solve": linear_solve,
    "fft": fft,
    "ragged_dot_general": keyworded(
        "lax.ragged_dot_general", "ragged_dot_dimension_numbers", "precision", "preferred_element_type", "out_sharding"
    ),
    "cholesky": cholesky,
    "triangular_solve": keyworded(
        "lax.linalg.triangular_solve", "left_side", "lower", "transpose_a", "conjugate_a", "unit_diagonal",
        defaults=dict.fromkeys(("left_side", "lower", "transpose_a", "conjugate_a", "unit_diagonal"), False),
    ),
    "lu": keyworded("lax.linalg.lu"),
    "qr": keyworded(
        "lax.linalg.qr", "pivoting", "full_matrices", "use_magma", defaults={"pivoting": False, "full_matrices": True}
    ),
    "random_seed": random_seed,
    "random_wrap": random_wrap,
    "random_unwrap": keyworded("jax.random.key_data"),
    "random_bits": random_bits,
    "random_split": random_split,
    "random_fold_in": random_fold_in,
    "device_put": device_put,
    "sharding_constraint": sharding_constraint,
    "optimization_barrier": optimization_barrier,
    "reshard": reshard,
    "psum": over_axes("lax.psum"),
    "psum_invariant": over_axes("lax.psum"),
    "pmax": over_axes("lax.pmax"),
    "pmin": over_axes("lax.pmin"),
    "ppermute": ppermute,
    "all_to_all": all_to_all,
    "all_gather": all_gather(None),
    "all_gather_invariant": all_gather("invarying"),
    "all_gather_reduced": all_gather("reduced"),
    "reduce_scatter": psum_scatter,
    "unreduced_reduce_scatter": psum_scatter,
    "pvary": cast("varying"),
    "preduced": cast("reduced"),
    **dict.fromkeys(("reduced_vary_cast_p", "reduced_vary_cast"), cast("varying")),
    **dict.fromkeys(("vary_unreduced_cast_p", "vary_unreduced_cast"), cast("unreduced")),
    "unreduced_psum": over_axes("lax.psum"),
    "shard_map": shard_map,
    "new_ref": new_ref,
    "ref": new_ref,
    "empty_ref": empty_ref,
    "get": ref_get,
    "freeze": freeze,
})  # fmt: skip
