"""Measuring one workload after another."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import jax

import funcgrad as fg
from benchmarks import flops, gradients, layers
from benchmarks.measure import Comparison, compare, compiling, tracing
from benchmarks.results import Cost, Result, Step
from benchmarks.workloads import Workload

#: By how much results in single precision may differ, relative to the largest number of a leaf.
SINGLE = 2e-3


@dataclass(frozen=True)
class Settings:
    """How much to measure: seconds per comparison, turns at least and at most, and whether the first size is enough."""

    budget: float
    least: int
    most: int
    one_size: bool

    def compare(self, reference, ours, **options) -> Comparison:
        return compare(reference, ours, budget=self.budget, least=self.least, most=self.most, **options)


FULL, QUICK = Settings(0.8, 3, 51, False), Settings(0.1, 1, 5, True)


def measure(name: str, workload: Workload, settings: Settings, torch: bool, device: Any) -> Result:
    """All there is to know about a workload on a device.

    Raises:
      Mismatch: a gradient is not the reference's. Nothing is timed before it was compared.
    """
    gradients.check(name, workload, workload.tiny, torch=torch)
    jax.clear_caches()
    sizes = workload.sizes[:1] if settings.one_size else workload.sizes
    once = sizes[0] if settings.one_size else workload.once or sizes[0]
    with jax.default_device(device):
        steps = [measure_step(name, workload, size, settings, torch, device) for size in sizes]
        ours, theirs, args = gradients.with_funcgrad(workload), gradients.with_jax(workload), workload.example(once)
        return Result(
            name=name,
            size=workload.size,
            shown=list(workload.shown) or [size for size in sizes if workload.measured("jax", size)][-1:],
            without_torch=workload.torch if isinstance(workload.torch, str) else "",
            once=once,
            tracing=settings.compare(tracing(theirs, args), tracing(ours, args)),
            eager=settings.compare(partial(theirs, *args), partial(ours, *args)),
            compiling=settings.compare(compiling(theirs, args), compiling(ours, args), prepared=True),
            steps=steps,
        )


def measure_step(name: str, workload: Workload, size: int, settings: Settings, torch: bool, device: Any) -> Step:
    args = workload.example(size)
    what = f"{name} of {size} {workload.size} in single precision"
    ours, cost = compiled(gradients.with_funcgrad(workload), args)
    forward, _ = compiled(workload.loss, args)
    with_jax = with_torch = theirs = None
    if workload.measured("jax", size):
        call, theirs = compiled(gradients.with_jax(workload), args)
        gradients.require(ours(), call(), SINGLE, what)
        with_jax = settings.compare(call, ours)
    else:
        gradients.require_along_itself(workload, args, ours(), SINGLE, what)
    if torch and workload.measured("torch", size):
        call = gradients.with_torch(workload, args, torch_device(device))
        gradients.require(on_host(call()), ours(), SINGLE, f"PyTorch's {what}")
        with_torch = settings.compare(call, ours)
    return Step(size, settings.compare(forward, ours), with_jax, with_torch, cost, theirs)


def compiled(fun: Callable, args: tuple) -> tuple[Callable[[], Any], Cost]:
    """A call of the compiled function, and what it takes."""
    program = jax.jit(fun).lower(*args).compile()
    memory = program.memory_analysis().temp_size_in_bytes
    return partial(program, *args), Cost(flops.count(program.as_text()), program.cost_analysis()["flops"], memory)


def on_host(tensors: Any) -> Any:
    return jax.tree.map(lambda x: x.cpu().numpy(), tensors)


def torch_device(device: Any) -> str:
    import torch

    return "cuda" if device.platform == "gpu" and torch.cuda.is_available() else "cpu"


def equal_layers(settings: Settings) -> dict[str, Comparison]:
    """Tracing the gradient of 48 equal layers called through one jit, relative to 12, the layer itself included."""

    def traced(gradient: Callable, count: int) -> Callable[[], Any]:
        args = layers.example(count)
        return lambda: tracing(gradient(layers.loss()), args)()

    transforms = {"funcgrad": fg.value_and_grad, "jax": jax.value_and_grad}
    return {name: settings.compare(traced(grad, 12), traced(grad, 48)) for name, grad in transforms.items()}


def importing(times: int) -> list[float]:
    """Seconds that importing funcgrad takes in a fresh process that has imported JAX and optax, its bytecode cached.

    Importing JAX and optax leaves a full garbage collection due, which whatever is imported next would pay for.
    """
    script = [
        "import gc, time, jax, optax; gc.collect()",
        "start = time.perf_counter(); import funcgrad; print(time.perf_counter() - start)",
    ]
    command, env = [sys.executable, "-c", "\n".join(script)], {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    runs = [subprocess.run(command, capture_output=True, check=True, text=True, env=env) for _ in range(times + 1)]
    return [float(run.stdout) for run in runs[1:]]


def machine(command: Iterable[str], torch: bool) -> dict[str, str]:
    threads = os.cpu_count() or 1
    words = {
        "command": " ".join(command),
        "processor": f"{processor()}, {threads} logical cores",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "versions": f"funcgrad {fg.__version__}, jax {jax.__version__}, jaxlib {version('jaxlib')}",
    }
    if torch:
        import torch as module

        module.set_num_threads(threads)  # XLA's pool of threads has as many
        words["versions"] += f", PyTorch {module.__version__} on {threads} threads"
    return words


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
