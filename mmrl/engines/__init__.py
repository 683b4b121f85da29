"""Engines: how tokens get sampled. Import its modules, not this package."""
