"""Everyone's records become Prompts: sources, formats, pictures, the seeded order of their use."""
