"""Which prompts come next, their samples and scores, and the queue of what is not used up."""
