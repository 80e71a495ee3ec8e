"""Benchmarks of funcgrad beside ``jax.value_and_grad``, measured in one process."""
