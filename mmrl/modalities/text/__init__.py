"""Text: any causal language model of transformers as a policy over tokens."""
