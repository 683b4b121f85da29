"""Hearing policies: a language model that is given sounds."""
