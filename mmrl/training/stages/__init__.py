"""Kinds of stages: each a class in a file of its own, all in `kinds`."""
