"""MMAU and MMAR: questions about sounds with options, scored by the published rule and without a bias of position."""
