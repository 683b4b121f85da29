"""Vision-language policies: a language model that is shown pictures."""
