"""Pipelines of a few MB with random weights, one builder per family, which `model.build` calls."""
