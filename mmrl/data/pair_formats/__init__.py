"""Published pairs, made ours: a file a family, a pure function a format, from a raw record to the columns of a pair."""
