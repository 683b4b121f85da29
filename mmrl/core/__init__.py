"""The core: pure functions on tensors, shared by every modality. Import its modules, not this package."""
