"""How much memory a training takes, from shapes and types."""
