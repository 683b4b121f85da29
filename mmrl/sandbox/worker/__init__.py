"""What runs in the interpreter of the worker: the standard library and nothing else."""
