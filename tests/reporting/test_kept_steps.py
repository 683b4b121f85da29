"""A run of any length leaves about as many stored steps, whether it was stopped or not."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.reporting.sample_index import list_tags
from mmrl.reporting.samples import SampleStore
from mmrl.reporting.thinning import kept_stride
from mmrl.types import Group, Prompt, Sample

GROUPS = [Group(Prompt("q", "what?"), 0, [Sample(Prompt("q", "what?"), 0, "that")])]


def stored(store, steps, every, most, kind="step"):
    for step in steps:
        store.write(f"{kind}_{step:06d}", GROUPS)
        store.thin_out(kind, step, every, most)
    return [int(tag.rpartition("_")[2]) for tag in list_tags(store.run_dir, f"{kind}_")]


def shown(last, every):
    return [step for step in range(1, last + 1) if step == 1 or step % every == 0]


def test_kept_steps_by_hand(tmp_path):
    """Room for four: the first, the newest, and two between them at most."""
    store, kept = SampleStore(tmp_path), {}
    for step in shown(70, 10):
        kept[step] = stored(store, [step], 10, 4)
    assert kept[20] == [1, 10, 20]
    assert kept[30] == [1, 20, 30]
    assert kept[40] == [1, 20, 40]
    assert kept[50] == [1, 20, 40, 50]
    assert kept[60] == [1, 40, 60]
    assert kept[70] == [1, 40, 70]


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(4, 9), st.integers(0, 60))
def test_a_run_that_goes_on_keeps_what_one_that_never_stopped_does(tmp_path_factory, last, every, most, stopped):
    """It writes the steps behind its last checkpoint again."""
    whole = stored(SampleStore(tmp_path_factory.mktemp("run")), shown(last, every), every, most)
    store = SampleStore(tmp_path_factory.mktemp("run"))
    steps = shown(last, every)
    stored(store, steps, every, most)
    assert stored(store, [step for step in steps if step > stopped], every, most) == whole
    assert len(whole) <= most
    assert whole[0] == 1 and whole[-1] == steps[-1]
    gaps = {b - a for a, b in pairwise(whole[1:-1])}
    assert gaps <= {kept_stride(steps[-1], every, most)}


def test_only_steps_of_the_kind_go_and_only_one_process_removes(tmp_path):
    store = SampleStore(tmp_path)
    for tag in ("eval_before", "eval_000010", "eval_after", "offending_000001"):
        store.write(tag, GROUPS)
    second = SampleStore(tmp_path / "other", part=1, parts=2)
    assert stored(store, range(1, 30), 1, 4)[-1] == 29
    assert len(stored(second, range(1, 30), 1, 4)) == 29
    assert {"eval_before", "eval_000010", "eval_after", "offending_000001"} <= set(list_tags(tmp_path))
    assert not [path.name for path in (tmp_path / "samples").iterdir() if path.name.startswith(".")]
    store.sync()  # of folders that are gone, too


def test_an_index_is_one_line(tmp_path):
    """With a line for each word a step took twice the room."""
    place = SampleStore(tmp_path).write("step_000001", GROUPS)
    text = (place / "index.json").read_text()
    assert "\n" not in text and json.loads(text)["groups"][0]["samples"][0]["file"]


@pytest.mark.parametrize("most", [4, 5, 100])
def test_everything_is_kept_while_there_is_room(most):
    assert kept_stride(10 * (most - 2), 10, most) == 10
    assert kept_stride(10 * (most - 1), 10, most) == 20
