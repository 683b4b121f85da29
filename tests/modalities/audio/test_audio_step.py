"""The sides of benchmarks/audio_step.py compute the same numbers, and count what they process and encode."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("soundfile")
BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    import audio_step
finally:
    sys.path.remove(BENCHMARKS)


@pytest.mark.parametrize(
    ("kind", "audio", "once", "processed", "encoded"),
    [
        ("qwen2_audio", "trained", False, (16, 2), (32, 4)),
        ("qwen2_audio", "frozen", True, (2, 2), (32, 2)),
        ("qwen2_5_omni", "frozen", False, (16, 2), (32, 2)),
    ],
)
def test_equal_numbers_and_one_sound_a_group(monkeypatch, kind, audio, once, processed, encoded):
    """Two groups of eight; `compare` ends where log-probs, loss or a gradient differ by more than 1e-4."""
    sizes = {"hidden": 32, "layers": 1, "audio_hidden": 32, "audio_layers": 1, "heads": 2, "kv_heads": 1}
    monkeypatch.setattr(audio_step, "MODEL", {**sizes, "audio_heads": 2, "context": 256})
    monkeypatch.setattr(audio_step, "WINDOW", {"mels": 16, "seconds": 2})
    monkeypatch.setattr(audio_step, "VOCAB", 400)
    rows = audio_step.compare(audio_step.Case(kind, audio, 0.5, 4, once), rounds=1, micro_batch=1024)
    for name, counts in (("processed", processed), ("encoded", encoded), ("tokens", (64, 64))):
        assert tuple(row[name] for found in rows.values() for row in found) == counts
