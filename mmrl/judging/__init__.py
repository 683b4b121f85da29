"""Reward models and judges at work: they score, they compare, and they are measured."""
