"""The commands of `mmrl`, one file a family; `mmrl.cli` puts them together."""
