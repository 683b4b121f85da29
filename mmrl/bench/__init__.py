"""Benchmarks from the user's own copies of their files: UniGenBench and GenEval of models that draw, MMAU and MMAR of
models that hear."""
