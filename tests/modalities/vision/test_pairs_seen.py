"""Pairs whose candidates have pictures: each row shows its own order, and is replayed with the pictures in it."""

from __future__ import annotations

import pytest
import torch

from mmrl.data.images import bound_images, stored_images
from mmrl.environments.pairs import Pairs, PairsOptions
from mmrl.training.check import check_adapter
from mmrl.types import Group, Prompt

OPTIONS = PairsOptions(template="{question} {responses}", response="{number}{answer}")


@pytest.fixture
def policy(adapter):
    made = adapter(loud=True, sampling={"max_tokens": 5})
    made.environment = Pairs(OPTIONS)
    return made


@pytest.fixture
def pair(drawn):
    def made(id="p", **record):
        candidates = [{"answer": "left", "images": [drawn(1)]}, {"images": [drawn(2, (48, 64)), drawn(3)]}]
        return Prompt(id, "Which?", {"prompt": "Which?", "images": [drawn(0)], "candidates": candidates, **record})

    return made


def test_pictures_are_shown_and_replayed_in_the_order_of_the_sample(policy, pair):
    (group,) = policy.rollout([Group(pair(), 0)], 8, 0, 0)
    views = {(0, 1): [0, 1, 2, 3], (1, 0): [0, 2, 3, 1]}
    assert {tuple(s.info["order"]) for s in group.samples} == set(views)
    for sample in group.samples:
        assert [m.view.picture for m in sample.media] == views[tuple(sample.info["order"])]
        assert policy.picture(sample, sample.media[-1]).size == sample.media[-1].seen
    for part in policy.slices(group.samples, 10_000):
        some = [group.samples[row] for row in part.rows]
        logp = policy.logprobs(some, part.columns).logp
        for line, sample in zip(logp, some):
            stored = sample.trajectory.logp
            torch.testing.assert_close(line[: len(stored)], stored, rtol=0, atol=1e-5)


def test_the_contract_holds(policy, pair):
    assert [r for r in check_adapter(policy, [pair("a"), pair("b", images=[])], n=2) if not r.passed] == []


def test_a_pair_that_no_environment_opens_shows_its_own_pictures_only(policy, pair):
    policy.environment = None
    assert [m.view.picture for m in policy.blank(pair()).media] == [0]


def test_pictures_of_candidates_travel_with_their_record(pair, tmp_path, policy):
    record = stored_images(pair().record, None, tmp_path, 10_000)
    names = [*record["images"], *(name for one in record["candidates"] for name in one.get("images", ()))]
    assert len(set(names)) == 4 and all((tmp_path / name).is_file() for name in names)
    free = bound_images(record, str(tmp_path), 10_000)
    logps = []
    for one in (pair(order=[1, 0]).record, {**free, "order": [1, 0]}):
        (made,) = policy.given(Prompt("p", "Which?", one), ["<answer>1</answer>"])
        logps.append(policy.logprobs([made], torch.arange(len(made.trajectory.mask))).logp)
    assert torch.equal(*logps)


def test_a_candidates_picture_that_is_missing_is_told_before_a_run(tmp_path):
    from mmrl.data.images import check_images, decode_images
    from mmrl.pictures import PictureError

    record = {"candidates": ["a", {"images": ["gone.png"]}]}
    for look in (check_images, decode_images):
        with pytest.raises(PictureError, match=r"gone\.png"):
            look(record, str(tmp_path), 10_000)
