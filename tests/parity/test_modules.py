"""A module's loss as a pure function, and the package that is imported when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import funcgrad as fg

pytestmark = pytest.mark.torch


def test_the_loss_is_the_modules_and_its_gradients_are_those_of_backward():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    params = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    value = fg.parity.module_loss(module, F.mse_loss)(params, x, y)
    value.backward()
    expected = F.mse_loss(module(x), y)
    expected.backward()
    assert torch.equal(value, expected)
    assert all(torch.equal(params[name].grad, p.grad) for name, p in module.named_parameters())


def test_the_parameters_passed_are_used_and_the_modules_own_left_alone():
    module = nn.Linear(2, 1)
    before = {name: p.clone() for name, p in module.named_parameters()}
    zeros = jax.tree.map(np.zeros_like, fg.parity.params_of(module))
    value = fg.parity.module_loss(module, F.mse_loss)(zeros, np.ones((3, 2), np.float32), np.full((3, 1), 2.0))
    assert value == 4
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_all_of_a_batch_but_the_target_goes_to_the_module():
    module = nn.Bilinear(2, 3, 1)
    torch_loss = fg.parity.module_loss(module, F.mse_loss)
    a, b, y = torch.randn(4, 2), torch.randn(4, 3), torch.randn(4, 1)
    assert torch.equal(torch_loss(fg.parity.params_of(module), a, b, y), F.mse_loss(module(a, b), y))
    alone = fg.parity.module_loss(nn.Linear(2, 1), lambda out: out.sum())
    assert alone(fg.parity.params_of(alone.module), a).shape == ()


def test_statistics_that_a_batch_updates_stay_out_of_the_module():
    module = nn.BatchNorm1d(2)
    torch_loss = fg.parity.module_loss(module, lambda out: out.sum())
    torch_loss(fg.parity.params_of(module), torch.randn(4, 2))
    assert module.num_batches_tracked == 0 and torch.equal(module.running_mean, torch.zeros(2))


def test_importing_funcgrad_does_not_import_torch():
    code = (
        "import sys, funcgrad; before = 'torch' in sys.modules; funcgrad.parity; print(before, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("funcgrad.parity")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(fg, "parity", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'funcgrad\[torch\]'"):
        _ = fg.parity
