"""How fast it is: `python -m benchmarks` measures, prints a table and writes build/bench.json.

A module named `bench_*` holds functions marked with :func:`~benchmarks.measure.benchmark`, each of which
yields measurements. Where something is compared, both sides are measured in the same run.
"""
