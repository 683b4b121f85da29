"""Held-out scores, options in another order, and what conversations were like."""
