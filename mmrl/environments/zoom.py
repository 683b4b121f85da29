"""A zoom tool in as many turns as the policy likes, after DeepEyes, with boxes in the space that the policy writes."""

from __future__ import annotations

import json

from pydantic import Field

from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.opening import opening
from mmrl.environments.parsing import Call, answered, call_in, numbers
from mmrl.environments.pictures import cropped, fitted, whole
from mmrl.media import IMAGE, View
from mmrl.strict import Strict

TOOL = "image_zoom_in_tool"
_SCHEMA = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Cuts a region out of a picture that you were shown and shows it enlarged.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "the region: left, top, right and bottom edge, in coordinates of that picture",
                },
                "label": {"type": "string", "description": "what is in the region"},
                "image": {"type": "integer", "description": "which picture, in order of being shown, from 1 (default)"},
            },
            "required": ["bbox_2d"],
        },
    },
}
SYSTEM = f"""You may look closer at parts of the pictures before you answer, with one tool:
<tools>
{json.dumps(_SCHEMA)}
</tools>
Think first. Then either call the tool,
<tool_call>
{{"name": "{TOOL}", "arguments": {{"bbox_2d": [x1, y1, x2, y2], "label": "..."}}}}
</tool_call>
after which you are shown the region, or finish with <answer></answer>."""
SHOWN = (
    f"<tool_response>\n{IMAGE}\n</tool_response>\n"
    "Look closer at another region, or give the answer in <answer></answer> if you have seen enough."
)
ERROR = "<tool_response>\nNothing to show: {problem}\n</tool_response>\nCall again, or answer in <answer></answer>."
PROBLEMS = {
    "unclosed": "the call was not closed with </tool_call>.",
    "bad_json": "the call is not valid JSON.",
    "bad_call": 'the call needs a "name" and an object of "arguments".',
    "unknown_tool": f"there is no tool of that name; the only one is {TOOL}.",
    "bad_arguments": "bbox_2d must be a list of four numbers.",
    "no_picture": "there is no picture of that number.",
    "not_finite": "the box has numbers without bounds.",
    "reversed": "the box is empty: x1 must be below x2, and y1 below y2.",
    "outside": "the box lies outside of the picture.",
    "small": "the box is too small.",
    "thin": "the box is too long and thin.",
}


class ZoomOptions(Strict):
    """min_side and max_aspect are the release's, in other pixels: it cut the original with coordinates of the copy."""

    system: str | None = Field(SYSTEM, description="Text of the system message, behind the record's own.")
    shown: str = Field(SHOWN, description="Said with a region.")
    error: str = Field(ERROR, description="Said where there is none; {problem} is why.")
    max_turns: int = Field(6, ge=1, description="Turns of the policy: after this many it is over, answer or not.")
    min_side: float = Field(30, ge=0, description="Sides of a box must be above this, in pixels that the model saw.")
    max_aspect: float = Field(100, gt=1, description="The ratio of a box's sides must be below this.")
    min_pixels: int | None = Field(None, ge=1, description="Area that pictures are enlarged to; null: as is.")
    max_pixels: int | None = Field(None, ge=1, description="Area that pictures are shrunk to; null: as is.")


class Zoom:
    """Regions of what was shown, on request, until an answer, a turn without a call, or `max_turns`.

    A box is read in the coordinates of the picture that it names (the first one otherwise), crops included, and cut
    to it; the region always comes from the original. What cannot be done is told as a text, and it goes on.
    info: `calls` that were granted, `failed` that were not, of these `failed/<reason>` with the keys of PROBLEMS, and
    `over_limit`, 1 where a call in the last turn was not looked at.
    """

    Options = ZoomOptions
    answers_cut = False

    def __init__(self, options: ZoomOptions | None = None) -> None:
        self.options = options or ZoomOptions()

    def open(self, episode: Episode) -> Context:
        """Raises ValueError for a record without pictures, or whose marks and pictures differ in number."""
        if not episode.sizes:
            raise ValueError(f"prompt {episode.prompt.id!r} has no picture to look closer at")
        episode.info.update(calls=0, failed=0, over_limit=0)
        limits = (self.options.min_pixels, self.options.max_pixels)
        views = [whole(i, size, fitted(size, *limits)) for i, size in enumerate(episode.sizes)]
        return Context(opening(episode.prompt, len(views), self.options.system), views)

    def respond(self, episode: Episode) -> Reply | None:
        said, info = episode.said[-1], episode.info
        call = None if answered(said) else call_in(said)
        if call is None:
            return None
        if len(episode.said) >= self.options.max_turns:
            info["over_limit"] = 1
            return None
        view, problem = self._region(call, episode)
        if view is None:
            info["failed"] += 1
            info[f"failed/{problem}"] = info.get(f"failed/{problem}", 0) + 1
            return Reply(self.options.error.replace("{problem}", PROBLEMS[problem]))
        info["calls"] += 1
        return Reply(self.options.shown, [view])

    def _region(self, call: Call, episode: Episode) -> tuple[View | None, str]:
        if call.problem:
            return None, call.problem
        if call.name != TOOL:
            return None, "unknown_tool"
        box = numbers(call.arguments.get("bbox_2d"), 4)
        if box is None:
            return None, "bad_arguments"
        number = call.arguments.get("image", 1)
        if type(number) is not int or not 1 <= number <= len(episode.pictures):
            return None, "no_picture"
        return cropped(
            box,
            episode.pictures[number - 1],
            smallest=self.options.min_side,
            aspect=self.options.max_aspect,
            clip=True,
            min_pixels=self.options.min_pixels,
            max_pixels=self.options.max_pixels,
        )
