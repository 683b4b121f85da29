"""What every modality of tokens is built on: text, and language models that see or hear."""
