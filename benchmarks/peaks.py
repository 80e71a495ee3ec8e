"""What gradients really hold on an accelerator that were told how much memory they may take.

python -m benchmarks.peaks [PROGRAM...] [--budgets 0.5 0.25]

The peak is the device's own (``memory_stats``), less the arguments and the gradients. An allocator never forgets its
peak, so each gradient runs in a process of its own; kernels are not tuned there, since tuning takes memory too. Where
a budget is less than what is possible, the least possible is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax

import funcgrad as fg
from benchmarks.budgets import flat, possible
from benchmarks.workloads.large import programs
from funcgrad.budgets.plan import Plan
from funcgrad.units import in_units

PLAIN = {"jax.grad": jax.grad, "fg.grad": fg.grad}


def held(program: str, way: str) -> dict[str, float]:
    """The peak of one gradient, and XLA's temporary memory of it, in bytes; ``way`` is a key of PLAIN or a budget."""
    f, args = programs()[program]
    if way not in PLAIN:
        f = fg.checkpoint(f, memory=possible(Plan(flat(f, args)), float(way))[0])
    device = jax.devices()[0]
    args = jax.block_until_ready(jax.device_put(args, device))
    run = jax.jit(PLAIN.get(way, fg.grad)(f)).lower(*args).compile()
    before = statistics(device)
    out = jax.block_until_ready(run(*args))
    after = statistics(device)
    results = sum(x.nbytes for x in jax.tree.leaves(out))
    grown = after["peak_bytes_in_use"] > before["peak_bytes_in_use"]
    peak = after["peak_bytes_in_use"] - before["bytes_in_use"] - results if grown else float("nan")
    return {"peak": peak, "temporary": run.memory_analysis().temp_size_in_bytes}


def statistics(device: jax.Device) -> dict[str, int]:
    found = device.memory_stats()
    if not found:
        raise SystemExit(f"{device} keeps no statistics of its memory: run this on a GPU or a TPU")
    return found


def in_its_own_process(program: str, way: str) -> dict[str, float]:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-m", "benchmarks.peaks", program, "--one", way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program}, {way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(program: str, budgets: list[float]) -> None:
    ways = [*PLAIN, *map(str, budgets)]
    with ThreadPoolExecutor(len(ways)) as pool:
        found = dict(zip(ways, pool.map(lambda way: in_its_own_process(program, way), ways), strict=True))
    plain = found["fg.grad"]
    print(program)
    for way, each in found.items():
        peak, temporary = (f"{in_units(each[k])}, {each[k] / plain[k]:.3f}" for k in ("peak", "temporary"))
        print(f"  {way:>8}: peak {peak} of fg.grad's; XLA's temporary memory {temporary}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", help="all of them if none is named")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--one", metavar="WAY", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        print(json.dumps(held(told.programs[0], told.one)))
        return
    for program in told.programs or programs():
        report(program, told.budgets)


if __name__ == "__main__":
    main()
