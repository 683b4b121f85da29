"""Columns of other libraries and papers, made ours: a file a family, a function a format."""
