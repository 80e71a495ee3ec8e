"""``benchmarks/README.md``, written from a report."""

from __future__ import annotations

from pathlib import Path

from benchmarks import tables
from benchmarks.picture import draw
from benchmarks.results import Report

PAGE, PICTURE = Path(__file__).with_name("README.md"), "picture.png"

TEXT = """\
# Benchmarks

```sh
make bench                           # everything, in about ten minutes: a table, a JSON file and a picture
make bench ARGS="lstm gru --quick"   # some workloads, the smallest sizes
make bench ARGS=--readme             # and write this page
```

funcgrad is measured beside `jax.value_and_grad` in one process and, on the CPU, beside eager PyTorch. Every gradient
is compared before it is timed: with `jax.value_and_grad`'s in 64 bits, then at each size in 32, and PyTorch's with
both; a difference beyond rounding ends the run. The two of a pair run in turn, so that whatever else the machine does
falls on both. A ratio is taken within each turn; its median is given, with the quartiles in parentheses.

## How to read it

Numbers are funcgrad's divided by `jax.value_and_grad`'s, but where another is named: 0.50 is half of it. Above
{time:.2f} in time, {flops:.3f} in flops or {memory:.2f} in memory a number is set in **bold**.

- *tracing*: from the Python function to the jaxpr of its value and gradient. *eager call*: without `jit`. A function
  that makes the body of a loop anew has it compiled in each such call, with either. *compiling*: lowering, and XLA,
  from cold.
- *step*: the compiled function. *flops*: floating-point operations of XLA's optimised program, the body of a loop as
  often as it runs (XLA's own count, in the JSON, takes it once, and integers too). *memory*: XLA's temporary buffers.
- */ forward*: the compiled value and gradient relative to the compiled loss alone.
- *growth*: exponents of the power of the size that fits the times at the largest three sizes best: of the compiled
  loss, of `jax.value_and_grad` and of funcgrad. Filling a table in place takes time linear in its length, 1, and so
  should its gradient; quadratic is 2.
- In `neural-ode` and `particle` the loop is dynamic, and `jax.grad` raises. It is given the same loop as a scan of
  fixed length instead, for which somebody had to choose a bound.
- PyTorch runs on as many threads as there are logical cores, as XLA does; `OMP_WAIT_POLICY=passive` keeps those that
  wait from taking the cores from XLA's. Its LSTM and GRU are the fused ones. *-* is what was not measured: `jax.grad`
  of the longest tables would take minutes, PyTorch's loops as well.
"""

REASONS = """\
## Where it is behind, and why

- *Tracing, and eager calls, of small programs.* Both trace the loss itself, which is 0.17 of `jax.value_and_grad`'s
  time on the transformer and 0.30 to 0.40 on the small programs: a floor above the 0.33 that was aimed at. Of the rest,
  nine tenths are JAX's own work for each equation (`python -m cProfile` of tracing the transformer: new variables,
  tracers, source lines). `mlp` and `convnet` run JAX's derivative rule of `relu` at every call, as JAX does, in Python:
  eagerly 0.46 ms each, where a whole call with `tanh` takes 0.18 ms and `jax.value_and_grad`'s 0.62 ms. The tables'
  bodies are traced once more to put their updates in place.
- *Importing.* Python's collector has a full collection due when JAX and optax are imported (`gc.get_count()` says so),
  which takes 40 to 55 ms and falls to whatever is imported next. It is made before the import is timed.
- *Eager calls of loops* compile the body in each call here, with either, and funcgrad's bodies have more in them.
- *`lstm` and `gru` at one sequence*: nearly all of the step is products of one row with weights, as fast as memory
  allows. Alone in a loop the LSTM's take 0.78 ms forward, 0.62 ms back, 0.19 ms for all inputs and 0.38 ms for the
  weights' gradients: together two thirds of `jax.grad`'s whole step. A way back written by hand takes 0.57 of it, with
  more memory. Computing the inputs' products ahead costs memory: an LSTM 0.83 with it, 0.51 without, where the step
  takes 0.75. At eight sequences a transposed copy of the weights makes a step of 0.57 one of 0.50, and memory of 0.66
  0.72.
- *`table-slices` beside its forward*: XLA's CPU backend makes one kernel of a loop whose step touches less than 1,024
  bytes, and runs the operations of other loops one by one. A block times an 8 by 8 matrix is below that, its gradient,
  with three such matrices, is not. With
  `--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=4096` in `XLA_FLAGS` both are kernels, and the
  gradient takes 1.9 times the forward's time. No array is copied with either, and time grows linearly.
- *`table-rows`' flops* are `logsumexp`'s exponentials computed again on the way back, for a fifth of the memory, and
  those of `transformer-scanned` its activations, for a third.
- *`particle`* is a loop of unknown length, whose states are computed again from checkpoints, beside one of fixed
  length that stores them all, 500 times the memory.
- *Steps above 1.03 whose quartiles reach below 1* are the run's noise: `saddle` took 0.65 in the run before.
"""

MEMORY = """\
## In less memory

`python -m benchmarks.checkpoints`: a small GPT-2 of 12 unrolled layers, told how much memory to take, beside
checkpoints around each layer. Each number is divided by that of keeping everything in the same library: memory (of
PyTorch the most bytes that tensors hold at a time besides those that stay), flops, and the time of a step.

| GPT-2, 12 layers | memory | flops | time |
| :-- | --: | --: | --: |
| `jax.checkpoint` around each layer, `jax.grad` | 1.00 | 1.23 | 0.94 |
| `jax.checkpoint` around each layer, `fg.grad` | 0.14 | 1.19 | 0.55 |
| with `dots_with_no_batch_dims_saveable`, `jax.grad` | 1.00 | 1.03 | 1.03 |
| with `dots_with_no_batch_dims_saveable`, `fg.grad` | 0.31 | 1.02 | 0.61 |
| with `dots_saveable`, `jax.grad` | 1.00 | 1.01 | 1.02 |
| with `dots_saveable`, `fg.grad` | 0.45 | 0.97 | 0.62 |
| `fg.checkpoint(loss, memory=0.5)`, `fg.grad` | 0.48 | 0.97 | 0.65 |
| `fg.checkpoint(loss, memory=0.25)`, `fg.grad` | 0.24 | 1.06 | 0.59 |
| `fg.checkpoint(loss, memory=0.2)`, `fg.grad` | 0.19 | 1.10 | 0.56 |
| PyTorch, `checkpoint` around each layer | 0.11 | - | 1.42 |
| PyTorch, selective: products without batch kept | 0.52 | - | 1.56 |
| PyTorch, selective: products kept | 0.76 | - | 1.58 |

On the CPU XLA begins what `jax.grad` computes again at once, and holds it until it is used: nothing is gained.
`python -m benchmarks.budgets --ten` shows ten budgets on each of five programs. With a smaller budget neither memory
nor, of products, the flops ever go the other way; of other arithmetic XLA's fusions repeat more or less, so that
keeping everything counts up to 3% more flops than half of it.
"""

DETAILS = """\
<details>
<summary>{summary}</summary>

{table}

</details>
"""


def write(report: Report, path: Path = PAGE) -> None:
    path.write_text(text(report))
    draw(report, path.with_name(PICTURE))


def text(report: Report) -> str:
    parts = [TEXT.format(**tables.BOUNDS), "## One run\n", f"![The ratios, drawn]({PICTURE})\n"]
    parts.append("\n".join(f"- {name}: {words}" for name, words in report.machine.items()) + "\n")
    for device, results in report.devices.items():
        parts.append(f"### {device}\n")
        parts.append(tables.markdown_table(tables.SUMMARY, tables.summary(results)) + "\n")
        for summary, header, rows in (
            ("A compiled step at every size", tables.STEPS, tables.steps),
            ("Tracing, an eager call, compiling", tables.OVERHEADS, tables.overheads),
        ):
            parts.append(DETAILS.format(summary=summary, table=tables.markdown_table(header, rows(results))))
    parts += [f"{sentence}\n" for sentence in tables.notes(report)]
    parts += [REASONS, MEMORY]
    return "\n".join(parts)
