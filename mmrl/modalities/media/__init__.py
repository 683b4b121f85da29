"""What policies share that see or hear: media at their places in a row, and their features, computed once."""
