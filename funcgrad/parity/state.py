"""A module's state as a pytree and back, with kernels laid out as torch has them or as jax does.

The layouts differ in the kernels of linear, convolutional, recurrent and attention layers alone. torch has outputs
first; ``x @ kernel``, and convolutions with channels last, want them last:

    layer            torch                         jax
    Linear           (out, in)                     (in, out)
    Conv             (out, in / groups, *window)   (*window, in / groups, out)
    ConvTranspose    (in, out / groups, *window)   (*window, in / groups, out), the window turned round
    RNN, LSTM, GRU   (gates * hidden, in)          (in, gates * hidden)
    attention        (3 * embed, embed)            (embed, 3 * embed)

Everything else keeps its shape, and every name stays torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.torch
import torch
from torch import nn

from funcgrad.parity.arrays import by_name, nested, to_numpy, to_tensor

Layout = Literal["torch", "jax"]
Tensors = Mapping[str, torch.Tensor]


class Kernel(NamedTuple):
    """The ways of one tensor between the two layouts."""

    to_jax: Callable[[torch.Tensor], torch.Tensor]
    to_torch: Callable[[torch.Tensor], torch.Tensor]


def outputs_last(w: torch.Tensor) -> torch.Tensor:
    return w.permute(*range(2, w.ndim), 1, 0)


def outputs_first(w: torch.Tensor) -> torch.Tensor:
    return w.permute(-1, -2, *range(w.ndim - 2))


TRANSPOSED = Kernel(outputs_last, outputs_first)


def transposed_convolution(groups: int) -> Kernel:
    """torch has the kernel of the convolution that this one is the transpose of; jax, that of a dilated convolution."""

    def to_jax(w):
        by_group = w.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)
        return by_group.permute(*range(2, w.ndim), 0, 1).flip(*range(w.ndim - 2))

    def to_torch(w):
        by_group = w.flip(*range(w.ndim - 2)).permute(-2, -1, *range(w.ndim - 2))
        return by_group.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)

    return Kernel(to_jax, to_torch)


def kernel_of(layer: nn.Module, name: str) -> Kernel | None:
    """How the parameter ``name`` of a layer is laid out anew, None where it stays as it is."""
    match layer:
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d() if name == "weight":
            return transposed_convolution(layer.groups)
        case nn.Linear() | nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if name == "weight":
            return TRANSPOSED
        case nn.RNNBase() | nn.RNNCellBase() if name.startswith("weight"):
            return TRANSPOSED
        case nn.MultiheadAttention() if name.endswith("proj_weight"):
            return TRANSPOSED
    return None


def relaid(state: Tensors, module: nn.Module | None, layout: Layout, way: Literal["to_jax", "to_torch"]) -> Tensors:
    """``state`` with its kernels taken between torch's layout and ``layout``."""
    if layout not in ("torch", "jax"):
        raise ValueError(f"layout is 'torch' or 'jax', not {layout!r}")
    if layout == "torch":
        return state
    if module is None:
        raise ValueError(
            "layout='jax' needs the module: a tensor does not say whether it is a kernel to be transposed or, for "
            "instance, an embedding. One on the meta device will do: with torch.device('meta'): module = Model()"
        )
    kernels = {
        f"{prefix}.{name}" if prefix else name: kernel
        for prefix, layer in module.named_modules(remove_duplicate=False)
        for name, _ in layer.named_parameters(recurse=False)
        if (kernel := kernel_of(layer, name)) is not None
    }
    return {name: getattr(kernels[name], way)(x) if name in kernels else x for name, x in state.items()}


def from_state_dict(state: Tensors, module: nn.Module | None = None, layout: Layout = "torch") -> dict[str, Any]:
    """A state dict as a pytree.

    Args:
      state: tensors by dotted name, as ``module.state_dict()`` or ``load_state_dict`` returns them.
      module: the module the state is of; only ``layout="jax"`` needs it, and asks it for no values.
      layout: ``"torch"`` leaves every tensor as it is, ``"jax"`` transposes kernels (see ``funcgrad.parity.state``).

    Returns:
      Nested dicts, one for each dot in the names, of jax arrays.

    Raises:
      TypeError: a tensor is float64 and jax is not set to keep that.
      ValueError: the layout is unknown, or is ``"jax"`` and there is no module.

    >>> layer = torch.nn.Linear(3, 2)
    >>> tree = from_state_dict(layer.state_dict(), layer, layout="jax")
    >>> tree["weight"].shape, tree["bias"].shape
    ((3, 2), (2,))
    """
    return nested({name: to_array(name, x) for name, x in relaid(state, module, layout, "to_jax").items()})


def to_array(name: str, x: torch.Tensor) -> jax.Array:
    if x.is_meta:
        raise ValueError(f"'{name}' is on the meta device and has no values. Load the module's weights first.")
    if x.dtype is torch.float64 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise TypeError(
            f"'{name}' is float64, which jax would cut to float32. Set jax.config.update('jax_enable_x64', True), or "
            "convert with module.float()."
        )
    return jnp.asarray(to_numpy(x))


def to_state_dict(params: Any, module: nn.Module | None = None, layout: Layout = "torch") -> dict[str, torch.Tensor]:
    """The inverse of ``from_state_dict``: a pytree as a state dict.

    Args:
      params: a tree of arrays whose paths are torch's names; nested or already flat.
      module: if given, the names and shapes are checked against it and what it has besides them, buffers and the other
        names of shared parameters, is filled in, so that ``module.load_state_dict`` takes the result as it is.
      layout: that of ``params``.

    Raises:
      ValueError: a name or a shape is not the module's, or a parameter is missing.

    >>> params = {"weight": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    >>> layer = torch.nn.Linear(3, 2)
    >>> layer.load_state_dict(to_state_dict(params, layer, layout="jax"))
    <All keys matched successfully>
    """
    named = {name: to_tensor(np.asarray(x) if np.isscalar(x) else x) for name, x in by_name(params).items()}
    state = {name: x.contiguous() for name, x in relaid(named, module, layout, "to_torch").items()}
    if module is None:
        return state
    own = module.state_dict(keep_vars=True)
    check_names(state, own, [name for name, _ in module.named_parameters()])
    check_shapes(state, own, layout)
    given = {id(own[name]): x for name, x in state.items()}
    return {name: given.get(id(x), x.detach()) for name, x in own.items()}


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], needed: list[str]) -> None:
    """Whether ``given`` has all the parameters that are ``needed`` and none that is not ``known``."""
    unknown = [name for name in given if name not in known]
    same = {id(known[name]) for name in given if name in known}
    missing = [name for name in needed if id(known[name]) not in same]
    if unknown or missing:
        problems = [f"misses {', '.join(missing)}"] * bool(missing)
        problems += [f"has {', '.join(unknown)}, which the module does not"] * bool(unknown)
        raise ValueError(f"params {' and '.join(problems)}. fg.parity.params_of(module) has the names it wants.")


def check_shapes(given: Tensors, known: Tensors, layout: Layout) -> None:
    """Whether what is in torch's layout now, and was in ``layout``, has the shapes of the module's."""
    for name, x in given.items():
        if name in known and x.shape != known[name].shape:
            raise ValueError(
                f"'{name}' has shape {tuple(x.shape)} in torch's layout, but the module's has shape "
                f"{tuple(known[name].shape)}. The tree was taken for one in layout={layout!r}."
            )


def load_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a file without running any code that may be in it.

    Args:
      path: a safetensors file, or one that ``torch.save`` wrote, which is read with ``weights_only=True``.

    Returns:
      Tensors by name, in memory.

    Raises:
      pickle.UnpicklingError: the file holds more than tensors and plain containers.
      ValueError: it holds something else than tensors by name.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    # A safetensors file begins with the length of a header, eight bytes, and the header, a JSON object.
    if start[8:] == b"{":
        return safetensors.torch.load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        held = f"a dict of {', '.join(map(repr, state))}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise ValueError(
            f"{path} holds {held}, not tensors by name. Take the state dict out of it: "
            "torch.load(path, weights_only=True)[...]"
        )
    return dict(state)
