"""Text: causal language models of transformers as policies over tokens."""
