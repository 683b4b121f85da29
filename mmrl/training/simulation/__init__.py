"""How long a step would take on many GPUs: a small model, its assumptions named and settable."""
