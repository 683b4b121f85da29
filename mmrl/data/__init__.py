"""Everyone's records become Prompts, pairs and supervised records: see README.md."""
