"""VisionThink: the policy is shown a small picture first and may ask for the full one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import Field

from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.opening import opening
from mmrl.environments.parsing import answered, call_in
from mmrl.environments.pictures import fitted, scaled, whole
from mmrl.media import IMAGE, Size, View
from mmrl.strict import Strict

TOOL = "resize_image"
LARGEST_SIDE = 16_384  # pixels, of a size that a record sets
_SCHEMA = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Shows the picture again at a higher resolution.",
        "parameters": {
            "type": "object",
            "properties": {"action": {"type": "string", "enum": ["resize"], "description": "the only action"}},
            "required": ["action"],
        },
    },
}
SYSTEM = f"""The picture that you are shown is a reduced copy. You have one tool:
<tools>
{json.dumps(_SCHEMA)}
</tools>
Begin every turn with your thoughts in <think></think>. If the reduced copy shows too little, end the turn with
<tool_call>
{{"name": "{TOOL}", "arguments": {{"action": "resize"}}}}
</tool_call>
and you will be shown the picture at full resolution. Otherwise, and in any case once you have seen it, end the turn
with the answer in <answer></answer>. The tool costs time: call it only where it is needed, at most once in a turn."""
SHOWN = (
    f"<tool_response>\nThe picture at full resolution: {IMAGE}\n</tool_response>\nThink again, then give your answer."
)
ERROR = (
    "<tool_response>\nThat was no call that can be read. It must be one JSON object: "
    f'{{"name": "{TOOL}", "arguments": {{"action": "resize"}}}}\n</tool_response>'
)


class VisionThinkOptions(Strict):
    """Defaults of numbers are the release's."""

    system: str | None = Field(SYSTEM, description="Text of the system message, behind the record's own.")
    shown: str = Field(SHOWN, description="Said with the full picture.")
    error: str = Field(ERROR, description="Said after a call that cannot be read.")
    factor: float = Field(2.0, gt=1, description="The first view has sides of 1 / factor of the full one's.")
    max_calls: int = Field(1, ge=0, description="Full views that are given; a further call ends the conversation.")
    min_pixels: int | None = Field(512**2, ge=1, description="Area that the full view is enlarged to; null: as is.")
    max_pixels: int | None = Field(2048**2, ge=1, description="Area that the full view is shrunk to; null: as is.")


class VisionThink:
    """Pictures at 1 / factor of each side, and at full size when the policy calls `resize_image`.

    A record may set the first view's size itself, as the released data does: info.tgt_width and info.tgt_height; the
    full view has `factor` times its sides. The last call behind the last thought counts, and none next to an answer.
    info: `calls` that were granted, `bad_calls` that could not be read, `over_limit` 1 where one too many ended it.
    """

    Options = VisionThinkOptions
    answers_cut = False

    def __init__(self, options: VisionThinkOptions | None = None) -> None:
        self.options = options or VisionThinkOptions()

    def open(self, episode: Episode) -> Context:
        """Raises ValueError for a record without pictures, or whose marks and pictures differ in number."""
        if not episode.sizes:
            raise ValueError(f"prompt {episode.prompt.id!r} has no picture to show at two resolutions")
        episode.info.update(calls=0, bad_calls=0, over_limit=0)
        messages = opening(episode.prompt, len(episode.sizes), self.options.system)
        return Context(messages, self._views(episode, full=False))

    def respond(self, episode: Episode) -> Reply | None:
        said, info = episode.said[-1], episode.info
        call = None if answered(said) else call_in(said)
        if call is None:
            return None
        if info["calls"] >= self.options.max_calls:
            info["over_limit"] = 1
            return None
        if call.problem or call.name != TOOL or call.arguments.get("action") != "resize":
            info["bad_calls"] += 1
            return Reply(self.options.error)
        info["calls"] += 1
        views = self._views(episode, full=True)
        return Reply(self.options.shown.replace(IMAGE, IMAGE * len(views)), views)

    def _views(self, episode: Episode, full: bool) -> list[View]:
        return [whole(i, size, self._size(episode, size, full)) for i, size in enumerate(episode.sizes)]

    def _size(self, episode: Episode, original: Size, full: bool) -> Size:
        target = _target(episode)
        if target is not None:
            return scaled(target, self.options.factor) if full else target
        most = fitted(original, self.options.min_pixels, self.options.max_pixels)
        return most if full else scaled(most, 1 / self.options.factor)


def _target(episode: Episode) -> Size | None:
    """The first view's size that the record sets. Raises ValueError for one that is no size."""
    info = episode.prompt.record.get("info")
    if not isinstance(info, Mapping) or not info.get("tgt_width") or not info.get("tgt_height"):
        return None
    try:
        sides = (int(info["tgt_width"]), int(info["tgt_height"]))
    except (TypeError, ValueError, OverflowError):
        sides = (0, 0)
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise ValueError(
            f"prompt {episode.prompt.id!r}: info.tgt_width and info.tgt_height must be from 1 to {LARGEST_SIDE} pixels"
        )
    return sides
