"""Serving: a reward, a scorer or a comparer over HTTP."""
