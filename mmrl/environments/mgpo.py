"""MGPO's conversation of two turns: the policy points at a region, is shown it enlarged, and answers."""

from __future__ import annotations

from pydantic import Field

from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.opening import opening, question_of
from mmrl.environments.parsing import pointed
from mmrl.environments.pictures import cropped, fitted, whole
from mmrl.media import IMAGE, View, to_original
from mmrl.strict import Strict

SYSTEM = """You look at a picture in two steps.
First you find the region that the question is about and write its box as JSON, then stop:
```json
[{"bbox_2d": [x1, y1, x2, y2], "label": "what it is"}]
```
Then you are shown that region enlarged, and give the answer inside \\boxed{}."""
ASK = "Where in the picture is what this question is about? Write the box as JSON."
CROP = (
    f"This is the region that you pointed at, enlarged: {IMAGE}\n{{question}}\n"
    "Use both pictures; if the region does not show enough, go by the first one. Put the answer inside \\boxed{}."
)
FALLBACK = (
    f"That was no box inside the picture, so here is all of it again: {IMAGE}\n{{question}}\n"
    "Put the answer inside \\boxed{}."
)
# Released rule, in original pixels: the picture's own shape may differ a little from the one that the model saw.
_THINNEST_CROP = 150


class MgpoOptions(Strict):
    """Defaults of numbers are the release's."""

    system: str | None = Field(SYSTEM, description="Text of the system message, behind the record's own.")
    ask: str = Field(ASK, description="Said behind the question in the first turn.")
    crop: str = Field(CROP, description="Shows the region; {question} is the question.")
    fallback: str = Field(FALLBACK, description="Shows the whole picture again, where there is no region.")
    min_pixels: int | None = Field(256 * 28**2, ge=1, description="Area that pictures are enlarged to; null: as is.")
    max_pixels: int | None = Field(1280 * 28**2, ge=1, description="Area that pictures are shrunk to; null: as is.")
    min_side: float = Field(28, ge=0, description="Sides of a box must be above this, in pixels that the model saw.")
    max_aspect: float = Field(100, gt=1, description="The ratio of a box's sides must be below this.")


class Mgpo:
    """Shows the region that the first turn points at, cut from the original picture; always a second turn.

    The first turn ends right behind the fence of its box: what it says after it is forgotten. A box that cannot be
    shown gives the whole picture again. info: `crop`, "ok" or why not ("no_json", "bad_json", "no_box", "not_finite",
    "reversed", "outside", "small", "thin"), and `box`, the policy's box in original pixels where it wrote one.
    """

    Options = MgpoOptions
    answers_cut = True  # the box may stand before the budget's end, and there is a second turn in any case

    def __init__(self, options: MgpoOptions | None = None) -> None:
        self.options = options or MgpoOptions()

    def open(self, episode: Episode) -> Context:
        """Raises ValueError for a record that has not one picture."""
        if len(episode.sizes) != 1:
            raise ValueError(f"prompt {episode.prompt.id!r} has {len(episode.sizes)} pictures; MGPO shows one")
        messages = opening(episode.prompt, 1, self.options.system)
        messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n{self.options.ask}"}
        return Context(messages, [self._whole(episode)])

    def respond(self, episode: Episode) -> Reply | None:
        if len(episode.said) > 1:
            return None
        found = pointed(episode.said[0])
        shown, view, problem = episode.pictures[0], None, found.problem
        if found.box is not None:
            episode.info["box"] = list(to_original(found.box, shown))
            view, problem = cropped(
                found.box,
                shown,
                smallest=self.options.min_side,
                aspect=self.options.max_aspect,
                min_pixels=self.options.min_pixels,
                max_pixels=self.options.max_pixels,
            )
        if view is not None and _thin(view):
            view, problem = None, "thin"
        episode.info["crop"] = problem
        text = self.options.fallback if view is None else self.options.crop
        text = text.replace("{question}", question_of(episode.prompt))
        return Reply(text, [view or self._whole(episode)], keep=found.end)

    def _whole(self, episode: Episode) -> View:
        size = episode.sizes[0]
        return whole(0, size, fitted(size, self.options.min_pixels, self.options.max_pixels))


def _thin(view: View) -> bool:
    left, top, right, bottom = view.crop or (0.0, 0.0, 1.0, 1.0)
    sides = sorted((right - left, bottom - top))
    return sides[1] >= _THINNEST_CROP * sides[0]
