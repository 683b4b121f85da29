"""Benchmarks of models that draw, from the user's own copies of their files: UniGenBench and GenEval."""
