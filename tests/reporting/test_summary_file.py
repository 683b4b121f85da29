import json

import pytest

from mmrl.reporting.summary import own_peak_rss_mb, read_summary, write_summary

GIVEN = {
    "main_metric": "reward",
    "before": {"reward": 0.25, "clip": float("nan")},
    "after": {"reward": 0.75, "clip": 0.5},
    "steps": 40,
    "wall_s": 61.5,
    "samples": 320,
    "actions": 1280,
    "seed": 3,
    "config": "image/tiny",
}


def test_the_contract_of_the_file(tmp_path):
    path = write_summary(tmp_path, **GIVEN, peak_rss_mb=512.0)
    assert json.loads(path.read_text()) == {
        "main_metric": "reward",
        "eval": {"before": {"reward": 0.25, "clip": None}, "after": {"reward": 0.75, "clip": 0.5}},
        "steps": 40,
        "wall_s": 61.5,
        "samples": 320,
        "actions": 1280,
        "peak_rss_mb": 512.0,
        "seed": 3,
        "config": "image/tiny",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_the_peak_is_measured_when_not_given(tmp_path):
    held = bytearray(64 * 2**20)  # zero pages count once they are touched
    held[::4096] = b"x" * len(held[::4096])
    write_summary(tmp_path, **GIVEN)
    assert 64 < read_summary(tmp_path)["peak_rss_mb"] <= own_peak_rss_mb() + 0.1


def test_a_missing_main_metric_is_named_and_no_evaluation_is_fine(tmp_path):
    with pytest.raises(ValueError, match=r"'reward' is not in eval\['after'\]; it has: clip"):
        write_summary(tmp_path, **(GIVEN | {"after": {"clip": 1.0}}))
    assert read_summary(tmp_path) is None
    write_summary(tmp_path, **(GIVEN | {"before": {}, "after": {}}))
    assert read_summary(tmp_path)["eval"] == {"before": {}, "after": {}}
