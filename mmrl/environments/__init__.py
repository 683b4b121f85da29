"""Environments: what the policy sees after each answer."""
