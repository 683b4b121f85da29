"""Which prompts can be rolled out: every process looks at its share, and all come to what one would."""

import warnings

import pytest

from mmrl.config import ConfigError
from mmrl.media import MediaError
from mmrl.training.assemble import _asked, usable
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
            found = [prompt.id for prompt in usable(adapter, prompts, on_bad, processes=processes)]
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
