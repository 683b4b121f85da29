"""What is computed once: a picture's pixels and features, and a group's prompt; and that it is let go of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from perceiving import replay, watch

from mmrl.environments.base import Context, Reply
from mmrl.media import IMAGE, View
from mmrl.modalities.kept import Kept
from mmrl.modalities.tokens import replay as replaying
from mmrl.types import Group


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "smolvlm"])
def test_a_group_of_eight_with_two_pictures(adapter, drawn, ask, roll, kind):
    policy = adapter(kind)
    seen, shapes = watch(policy)
    prompt = ask("Which?", drawn(1), drawn(2, (40, 72)))
    assert policy.usable(prompt) is None
    policy.prepare_reference()
    samples = roll(policy, [prompt], n=8)
    before = len(samples[0].trajectory.tensors["prompt"])
    assert shapes[0] == (1, before) and [s for s in shapes if s[1] > 1] == [(1, before)]  # prefilled once
    assert shapes[1][0] == 8
    shapes.clear()
    replay(policy, samples, reference=True)
    said = sum(len(s.trajectory.tensors["ids"]) - 1 for s in samples)
    prompts = [(1, before + said)] * 2 if policy._ways.line else [(1, before), *shapes[1:2]] * 2
    assert shapes == prompts  # once for the policy, once for its reference
    roll(policy, [prompt], n=8, step=1)
    replay(policy, samples, budget=200)
    assert policy.shelf.processed == 2
    assert seen == [2]


def test_a_trained_tower_computes_a_picture_once_per_micro_batch(adapter, drawn, ask, roll):
    policy = adapter(vision="trained")
    both = [ask("Which?", drawn(2, (40, 72)), drawn(1)), ask("What?", drawn(2, (40, 72)))]
    samples = roll(policy, both, n=4)
    seen, _ = watch(policy)
    policy.logprobs(samples, torch.arange(10))
    assert seen == [2]  # eight rows of two prompts that share a picture
    seen.clear()
    parts = list(policy.slices(samples, 150))
    replay(policy, samples, 150)
    asked = [max(len(samples[row].media) for row in part.rows) for part in parts]
    assert len(parts) > 1 and seen == asked
    assert policy.shelf.processed == 2


class Closer:
    """Shows a part of the picture, then all of it again."""

    answers_cut = True

    def open(self, episode):
        return Context([{"role": "user", "content": f"{IMAGE}?"}], [View(0)])

    def respond(self, episode):
        views = {1: View(0, (8.0, 8.0, 40.0, 40.0)), 2: View(0)}
        view = views.get(len(episode.said))
        return None if view is None else Reply(f"{IMAGE} Again?", [view])


def test_views_of_conversations_are_shared_too(adapter, drawn, ask, roll):
    """Four conversations of three turns: one picture, one part of it; the whole one stands in each row twice."""
    policy = adapter()
    policy.environment = Closer()
    seen, _ = watch(policy)
    samples = roll(policy, [ask("?", drawn(1))], n=4)
    replay(policy, samples)
    assert [len(s.media) for s in samples] == [3] * 4
    assert policy.shelf.processed == 2 and sum(seen) == 2


@pytest.mark.parametrize("line", [True, False])
def test_a_trained_tower_sees_a_picture_of_both_parts_of_a_row_once(adapter, drawn, ask, roll, monkeypatch, line):
    """The whole picture stands in the prompt, which may have a forward of its own, and in the conversation behind it;
    what is shared has the gradient of what is computed for each row apart."""
    policy = adapter(vision="trained", loud=True)
    assert policy._ways.line
    policy._ways = replace(policy._ways, line=policy._ways.line if line else 0)
    policy.environment = Closer()
    seen, shapes = watch(policy)
    samples = roll(policy, [ask("?", drawn(1))], n=4)
    assert sum(seen) == 2  # in all three turns of the rollout
    seen.clear(), shapes.clear()
    columns = torch.arange(max(len(s.trajectory.mask) for s in samples))
    with monkeypatch.context() as patch:
        patch.setattr(replaying, "WORTH_SHARING", 10.0)  # always
        loss = policy.logprobs(samples, columns).logp.sum()
    assert sum(seen) == 2 and [rows for rows, _ in shapes] == ([1] if line else [1, 4])
    parameters = list(policy.trainable_parameters().values())
    made = torch.autograd.grad(loss, parameters)
    alone = [torch.autograd.grad(policy.logprobs([s], columns).logp.sum(), parameters) for s in samples]
    for together, parts in zip(made, zip(*alone)):
        wanted = sum(parts)
        torch.testing.assert_close(together, wanted, rtol=2e-3, atol=2e-4 * float(wanted.abs().max().clamp(min=1)))


def test_the_same_picture_of_two_records_is_processed_once(adapter, drawn, ask, roll, tmp_path):
    drawn(1).save(tmp_path / "a.png")
    policy = adapter()
    first, second = (ask(text, "a.png") for text in ("What?", "Where?"))
    samples = roll(policy, [type(p)(p.id, p.text, p.record, str(tmp_path)) for p in (first, second)])
    assert policy.shelf.processed == 1 and len({s.media for s in samples if s.media}) == 1


def test_pictures_in_memory_are_read_for_their_key_once(adapter, drawn, ask, roll, monkeypatch):
    policy, picture = adapter(), drawn(1, (64, 64))
    original, reads, place = type(picture).tobytes, [], id(picture)
    monkeypatch.setattr(
        type(picture), "tobytes", lambda self, *a: reads.append(id(self) == place) or original(self, *a)
    )
    samples = roll(policy, [ask("?", picture)], n=4)
    replay(policy, samples)
    assert sum(reads) == 1
    key = next(iter(policy.shelf._keys))
    del samples, picture
    import gc

    gc.collect()
    assert key not in policy.shelf._keys


# -------------------------------------------------------------------- memory


@dataclass(frozen=True)
class Thing:
    bytes: int


def test_the_longest_unused_goes_first_and_the_last_stays():
    kept = Kept(10)
    for name, size in (("a", 4), ("b", 4), ("c", 2)):
        kept.put(name, Thing(size))
    assert kept.get("a") == Thing(4) and kept.bytes == 10
    kept.put("d", Thing(3))
    assert [name for name in "abcd" if kept.get(name)] == ["a", "c", "d"] and kept.bytes == 9
    kept.put("e", Thing(99))
    assert [name for name in "abcde" if kept.get(name)] == ["e"] and len(kept) == 1 and kept.bytes == 99


def test_more_pictures_than_there_is_room_for_are_made_again_and_nothing_changes(adapter, drawn, ask, roll):
    prompts = [ask(f"{i}?", drawn(i), drawn(i + 10)) for i in range(3)]
    roomy, tight = adapter(), adapter()
    tight.shelf._kept.limit = tight._kept.limit = 1
    wanted, samples = roll(roomy, prompts), roll(tight, prompts)
    for a, b in zip(wanted, samples):
        assert torch.equal(a.trajectory.logp, b.trajectory.logp)
    before = tight.shelf.processed
    list(tight.slices(samples, 10**6))  # asks for ids, not for pixels
    assert tight.shelf.processed == before
    found = [policy.logprobs(samples, torch.arange(10)).logp for policy in (roomy, tight)]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert len(tight.shelf._kept) == len(tight._kept) == 1
    # A picture is made for its prompt, again for the tower where it is gone by then, and again for the replay.
    assert roomy.shelf.processed == 6 and tight.shelf.processed <= 18


def test_the_features_that_are_kept_are_bounded_by_their_size(adapter, drawn, ask, roll):
    policy = adapter("qwen3_vl")
    roll(policy, [ask("?", drawn(1))])
    # 4 x 3 cells of 32 numbers of 4 bytes, for the first layer and for one inner layer
    assert policy._kept.bytes == 2 * 12 * 32 * 4


def test_samples_hold_no_pixels(adapter, drawn, ask):
    """Pain 9: what a rollout keeps is ids and views; the pixels are the record's."""
    policy = adapter()
    policy.environment = Closer()
    (group,) = policy.rollout([Group(ask("?", drawn(1, (400, 300))), 0)], 2, 0, 0)
    for sample in group.samples:
        assert set(sample.trajectory.tensors) == {"prompt", "ids", "step"}
        assert all(t.dtype == torch.int64 for n, t in sample.trajectory.tensors.items() if n != "step")
