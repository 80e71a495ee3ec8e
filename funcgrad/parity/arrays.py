"""Arrays of one side as those of the other, and trees of them by name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

#: Floating-point dtypes that both sides have.
TORCH_DTYPES = {
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float16): torch.float16,
    np.dtype(ml_dtypes.bfloat16): torch.bfloat16,
}
NARROW = (torch.float32, torch.float16, torch.bfloat16)


def is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic | jax.Array | torch.Tensor)


def is_float(x: Any) -> bool:
    return np.dtype(x.dtype) in TORCH_DTYPES


def to_numpy(x: Any) -> np.ndarray:
    """An array of either side, copied. NumPy knows bfloat16 by way of ``ml_dtypes``."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = (x if x.layout is torch.strided else x.to_dense()).contiguous()  # an embedding's gradient may be sparse
        if x.dtype is torch.bfloat16:
            return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
        return x.numpy().copy()
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError(
            "a PRNG key means random numbers, and PyTorch cannot draw the same ones. Draw them before, and pass what "
            "was drawn to both sides."
        )
    return np.array(x)


def to_tensor(x: Any) -> Any:
    """An array as a tensor; whatever else ``x`` may be, itself.

    jax's default integer is the int32 and torch's is the int64, which many of its functions insist on.
    """
    if isinstance(x, torch.Tensor) or not is_array(x):
        return x
    x = to_numpy(x)
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x.astype(np.int64) if x.dtype == np.int32 else x)


def cast(x: Any, dtype: Any) -> Any:
    """A floating-point array in ``dtype``; whatever else ``x`` may be, itself."""
    return x.astype(dtype) if isinstance(x, np.ndarray) and is_float(x) else x


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, spelled as torch spells them: ``layers.0.weight``.

    >>> by_name({"layers": [{"weight": 1.0}], "head.bias": 2.0})
    {'head.bias': 2.0, 'layers.0.weight': 1.0}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def nested(named: dict[str, Any]) -> dict[str, Any]:
    """A tree of dicts from leaves by dotted name.

    >>> nested({"layers.0.weight": 1.0, "layers.0.bias": 2.0})
    {'layers': {'0': {'weight': 1.0, 'bias': 2.0}}}
    """
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *path, last = name.split(".")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = leaf
    return tree
