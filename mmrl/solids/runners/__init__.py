"""What runs in the sandbox: one module a dialect, and one that measures."""
