"""A ``torch.nn.Module`` as what a functional program wants: a tree of parameters and a pure loss of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import torch
from torch import nn

from funcgrad.parity.arrays import by_name, to_tensor
from funcgrad.parity.state import Layout, Tensors, check_names, check_shapes, from_state_dict, relaid


def params_of(module: nn.Module, layout: Layout = "torch") -> dict[str, Any]:
    """The parameters of a module as nested dicts of jax arrays, under torch's names.

    Buffers are not parameters; ``from_state_dict(dict(module.named_buffers()))`` gives those. A parameter that the
    module uses under several names is there once, under the first.

    Args:
      module: any module with its weights loaded.
      layout: ``"torch"`` leaves every tensor as it is, ``"jax"`` transposes kernels (see ``funcgrad.parity.state``).

    >>> module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
    >>> {name: leaf.shape for name, leaf in params_of(module)["0"].items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    return from_state_dict(dict(module.named_parameters()), module, layout)


class ModuleLoss:
    """A loss of a module's parameters and a batch; see ``module_loss``."""

    def __init__(self, module: nn.Module, loss: Callable, layout: Layout = "torch", buffers: Tensors | None = None):
        self.module = module
        self.loss = loss
        self.layout = layout
        self.own_buffers = buffers

    @property
    def buffers(self) -> Tensors:
        """The module's buffers, or those given in their place."""
        return dict(self.module.named_buffers()) if self.own_buffers is None else self.own_buffers

    def __call__(self, params: Any, *batch: Any) -> torch.Tensor:
        named = {name: to_tensor(x) for name, x in by_name(params).items()}
        self.check_names(named)
        state = {**relaid(named, self.module, self.layout, "to_torch"), **self.buffer_copies(named)}
        check_shapes(state, self.module.state_dict(), self.layout)
        values = jax.tree.map(to_tensor, batch)
        inputs, target = (values[:-1], values[-1:]) if len(values) > 1 else (values, ())
        return self.loss(torch.func.functional_call(self.module, state, inputs), *target)

    def buffer_copies(self, params: Tensors) -> Tensors:
        """Copies of the buffers, which the module may write to: on the parameters' device and, if those agree on a
        dtype, floating-point ones in it."""
        dtypes = {x.dtype for x in params.values()}
        device = next(iter(params.values())).device
        copies = {name: x.detach().to(device, copy=True) for name, x in self.buffers.items()}
        if len(dtypes) > 1:
            return copies
        (dtype,) = dtypes
        return {name: x.to(dtype) if x.is_floating_point() else x for name, x in copies.items()}

    def nudged(self) -> ModuleLoss | None:
        """This loss with floating-point buffers moved by half a unit in the last place, every other number the other
        way; None where there are none."""
        moved = {name: nudge(x) if x.is_floating_point() else x for name, x in self.buffers.items()}
        has_any = any(x.is_floating_point() for x in self.buffers.values())
        return ModuleLoss(self.module, self.loss, self.layout, moved) if has_any else None

    def check_names(self, params: Tensors) -> None:
        """Whether ``params`` are the module's parameters, each of them once."""
        buffers = [name for name in self.buffers if name in params]
        if buffers:
            raise ValueError(
                f"params has buffers of the module, which are not differentiated: {', '.join(buffers)}. Pass "
                "fg.parity.params_of(module), and close over buffers in the function of the jax side."
            )
        own = dict(self.module.named_parameters(remove_duplicate=False))
        check_names(params, own, [name for name, _ in self.module.named_parameters()])
        first: dict[int, str] = {}
        for name in params:
            other = first.setdefault(id(own[name]), name)
            if other != name:
                raise ValueError(
                    f"'{name}' and '{other}' are one shared parameter of the module. Leave one of the two in params, "
                    "as fg.parity.params_of(module) does, and use it twice in the function of the jax side."
                )

    def random_modules(self) -> list[str]:
        """The modules that draw random numbers in the mode that they are in."""
        found = []
        for name, module in self.module.named_modules():
            kind = type(module).__name__
            rate = getattr(module, "p", 0) if "drop" in kind.lower() else getattr(module, "dropout", 0)
            if module.training and isinstance(rate, int | float) and rate > 0:
                found.append(f"{name} ({kind})" if name else kind)
        return found

    def batch_statistics(self) -> list[str]:
        """The modules that normalise by statistics of the batch because they are in training mode."""
        kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
        return [name for name, m in self.module.named_modules() if isinstance(m, kinds) and m.training]


def nudge(x: torch.Tensor) -> torch.Tensor:
    signs = torch.arange(x.numel(), device=x.device).reshape(x.shape) % 2 * 2 - 1
    return x.double() * (1 + signs * torch.finfo(x.dtype).eps / 2)


def module_loss(module: nn.Module, loss: Callable[..., torch.Tensor], layout: Layout = "torch") -> ModuleLoss:
    """A pure function ``torch_loss(params, *inputs, target)`` of a module, by ``torch.func.functional_call``.

    Args:
      module: it is called with the parameters passed instead of its own, in the mode (``train`` or ``eval``) it is in.
        Neither its parameters nor its buffers are changed.
      loss: ``loss(output, target)``, a scalar tensor.
      layout: that of the ``params`` the function will be called with.

    Returns:
      A function of parameters (a tree whose paths are torch's names, nested or flat) and a batch: all but its last
      value are passed to the module, the last is the target. With a batch of one value, ``loss`` gets the output
      alone. Arrays of both sides will do.

    Raises:
      ValueError: from the function, where ``params`` lacks a parameter of the module, has a name that is not one, has a
        buffer, or has a shared parameter twice.

    >>> module = torch.nn.Linear(3, 1)
    >>> torch_loss = module_loss(module, torch.nn.functional.mse_loss)
    >>> torch_loss(params_of(module), torch.ones(4, 3), torch.ones(4, 1)).shape
    torch.Size([])
    """
    return ModuleLoss(module, loss, layout)
