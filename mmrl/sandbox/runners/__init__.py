"""Runners that ship with the sandbox."""
