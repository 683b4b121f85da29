"""Solids: measures of them, and programs that build them. See README.md."""
