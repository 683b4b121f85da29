"""Which prompts can be rolled out: every process looks at its share, and all come to what one would."""

import warnings

import pytest

from mmrl.config import ConfigError
from mmrl.media import MediaError
from mmrl.training.assemble import _asked
from mmrl.training.cursor import Cursor
from mmrl.training.fitting import Fitting, Look, usable
from mmrl.training.rollouts.collecting import Collector
from mmrl.training.rollouts.curriculum import AllRetired, Curriculum
from mmrl.types import Prompt


class Picky:
    """An adapter that takes no prompt with `x`, finds pictures broken at `!`, and warns once of `w`."""

    def __init__(self):
        self.looked, self.warned = [], False

    def usable(self, prompt):
        self.looked.append(prompt.id)
        if "w" in prompt.text and not self.warned:
            self.warned = True
            warnings.warn("words are lost", stacklevel=2)
        if "!" in prompt.text:
            raise MediaError("a picture is broken")
        return "has an x" if "x" in prompt.text else None


class Heard(Exception):
    pass


class Share:
    """One of several processes; the first round learns what each tells, the second has what all told."""

    def __init__(self, rank, told):
        self.rank, self.world, self.told = rank, len(told), told

    def gather(self, value):
        if self.told[self.rank] is None:
            self.told[self.rank] = value
            raise Heard
        return self.told


def outcome(adapter, prompts, on_bad, processes=None):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = [prompt.id for prompt in usable(adapter, prompts, on_bad, processes=processes)[0]]
        except ConfigError as error:
            found = str(error)
    return found, {str(one.message) for one in told}


TEXTS = {
    "good": "a b c d e f g",
    "some": "a x c x e wf w",
    "none": "x xx xxx",
    "broken": "a x ! c ! w d",
    "few": "a",
}


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("world", [2, 3, 9])
@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_any_number_of_processes_keeps_and_tells_the_same(texts, world, on_bad):
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(texts.split())]
    wanted = outcome(Picky(), prompts, on_bad)
    told, adapters = [None] * world, [Picky() for _ in range(world)]
    for rank, adapter in enumerate(adapters):
        with pytest.raises(Heard):
            usable(adapter, prompts, on_bad, processes=Share(rank, told))
    looked = [name for adapter in adapters for name in adapter.looked]
    assert len(looked) == len(set(looked)) <= len(prompts)
    for rank in range(world):
        found = outcome(Picky(), prompts, on_bad, Share(rank, told))
        assert found[0] == wanted[0]
        assert found[1] >= wanted[1]


def test_media_that_hold_the_same_are_the_same_question():
    def asked(ref):
        return _asked(Prompt("p", "what?", {"images": [ref]}))

    assert asked({"bytes": b"abc", "path": None}) == asked({"bytes": b"abc", "path": None})
    assert asked({"bytes": b"abc"}) != asked({"bytes": b"abd"})
    assert asked({"frames": ["a.png"]}) == asked({"frames": ["a.png"]}) != asked({"frames": ["b.png"]})
    assert asked("a.png") == asked("a.png") != asked("b.png")


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_passes_over_the_same_when_they_are_drawn(world, on_bad):
    def found(adapter, processes=None):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                fit = Fitting(Look(adapter, prompts, on_bad), 2, processes).fit([7, 0, 3, 5, 3, 4])
            except ConfigError as error:
                fit = str(error)
        return fit, [str(one.message) for one in told]

    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(["a", "b", "c", "x", "d", "!", "e", "g"])]
    wanted = found(Picky())
    assert wanted[0] == ([7, 0, 4] if on_bad == "skip" else "prompt 'p5': a picture is broken; mend it, or set "
                         "data.on_bad_record: skip")  # fmt: skip
    told, adapters = [None] * world, [Picky() for _ in range(world)]
    for rank, adapter in enumerate(adapters):
        with pytest.raises(Heard):
            found(adapter, Share(rank, told))
    assert sum(len(adapter.looked) for adapter in adapters) <= 4
    for rank in range(world):
        assert found(Picky(), Share(rank, told)) == wanted


# -------------------------------------------------------------------- when they are drawn


def drawn(fitting, curriculum, step, count):
    """As the collector draws."""
    collector = Collector.__new__(Collector)
    collector._fitting, collector.curriculum, collector.seed, collector.cursor = fitting, curriculum, 0, Cursor()
    return collector._drawn(step, count)


@pytest.mark.parametrize("order", ["shuffled", "sorted", "staged"])
def test_what_cannot_be_used_is_passed_over_for_good_and_moves_no_other(order):
    texts = ["a", "x", "b", "x", "c", "d", "x", "e", "f", "g"]
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(texts)]
    bad = {i for i, text in enumerate(texts) if text == "x"}
    levels = [i % 2 for i in range(len(texts))]
    ids = [prompt.id for prompt in prompts]
    made, plain = Curriculum(ids, levels, order=order), Curriculum(ids, levels, order=order)
    adapter = Picky()
    fitting = Fitting(Look(adapter, prompts, "stop"))
    with pytest.warns(UserWarning, match=r"prompt 'p\d' cannot be used: has an x; passed over, 1 so far"):
        found = [number for step in range(4) for number in drawn(fitting, made, step, 3)]
    assert found == [number for number in plain.order(0, 60, 0) if number not in bad][:12]
    assert len(adapter.looked) == len(set(adapter.looked))
    again = Curriculum(ids, levels, order=order)
    again.load(made.state())
    assert drawn(Fitting(Look(Picky(), prompts, "stop")), again, 4, 3) == drawn(fitting, made, 4, 3)


def test_without_a_prompt_that_can_be_used_it_ends_and_a_broken_picture_stops_it():
    prompts = [Prompt(f"p{i}", "x") for i in range(3)]
    with pytest.warns(UserWarning), pytest.raises(AllRetired, match="none of 3 prompts can be used"):
        drawn(Fitting(Look(Picky(), prompts, "stop")), Curriculum([p.id for p in prompts]), 0, 2)
    broken = [Prompt("p", "!")]
    with pytest.raises(ConfigError, match=r"prompt 'p': a picture is broken; mend it"):
        drawn(Fitting(Look(Picky(), broken, "stop")), Curriculum(["p"]), 0, 1)
    with pytest.warns(UserWarning, match="a picture is broken; passed over"), pytest.raises(AllRetired):
        drawn(Fitting(Look(Picky(), broken, "skip")), Curriculum(["p"]), 0, 1)
