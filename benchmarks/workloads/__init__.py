"""The programs that are measured, by name."""

from benchmarks.workloads import algebra, inplace, mechanics, networks, ode, recurrent, statistics, transformer
from benchmarks.workloads.workload import Workload

__all__ = ["Workload", "registry"]

registry: dict[str, Workload] = {
    "line-fit": networks.line,
    "mlp": networks.mlp,
    "convnet": networks.convnet,
    "transformer": transformer.unrolled,
    "transformer-scanned": transformer.scanned,
    "lstm": recurrent.lstm,
    "gru": recurrent.gru,
    "neural-ode": ode.neural_ode,
    "table": inplace.table_set,
    "table-reads": inplace.table_reads,
    "table-add": inplace.table_add,
    "table-slices": inplace.table_slices,
    "table-rows": inplace.table_rows,
    "table-nested": inplace.table_nested,
    "tridiagonal": algebra.tridiagonal,
    "mixture": statistics.mixture,
    "bundle-adjustment": mechanics.bundle,
    "hand": mechanics.hand,
    "k-means": statistics.kmeans,
    "logistic": statistics.logistic,
    "log-sum-exp": statistics.log_sum_exp,
    "saddle": mechanics.saddle,
    "particle": mechanics.particle,
    "determinant": algebra.cofactors,
}
