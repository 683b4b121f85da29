"""One folder per modality: an adapter (modalities/adapter.py) and what only it needs."""
