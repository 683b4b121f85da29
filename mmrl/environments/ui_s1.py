"""UI-S1's semi-online replay: the policy acts on an expert's screenshots, step by step, each step a row of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from mmrl.environments.base import Context, Episode, Reply
from mmrl.environments.gui import Action, MatchOptions, in_original, match, read, written
from mmrl.environments.parsing import plain
from mmrl.environments.pictures import fitted, whole
from mmrl.media import IMAGE
from mmrl.strict import Strict

SYSTEM = """You operate a phone to reach a goal. In every turn you see the screen and do one thing.
Think in <think></think> about what the screen shows and what comes next; then write one action as JSON:
<action>
{"action": "click", "coordinate": [x, y]}
</action>
The actions, with what each needs:
- click: coordinate [x, y], a point on the screen, in pixels from its left and top
- long_press: coordinate, time (seconds)
- swipe: coordinate and coordinate2, where the finger starts and where it ends
- type: text, written into the field that is active
- answer: text, the answer to a question of the user
- open: text, the name of an app
- key: text, the name of a key event
- system_button: button, one of Back, Home, Menu, Enter
- wait: time (seconds)
- terminate: status, success or failure"""
GOAL = "The goal: {goal}"
HIDDEN = "(the screen of this step is no longer shown)"


class UiS1Options(Strict):
    """Defaults of numbers are the release's."""

    system: str | None = Field(SYSTEM, description="Text of the system message.")
    screenshots: int = Field(2, ge=1, description="Screenshots in a row: this step's and those right before it.")
    patches: int = Field(2, ge=-1, description="Wrong steps that are replaced by the expert's; -1: all of them.")
    format_weight: float = Field(0.1, ge=0, description="Share of the form in a step's score.")
    action_weight: float = Field(0.9, ge=0, description="Share of the action in a step's score.")
    match: MatchOptions = Field(default_factory=MatchOptions)
    min_pixels: int | None = Field(None, ge=1, description="Area that screenshots are enlarged to; null: as is.")
    max_pixels: int | None = Field(None, ge=1, description="Area that screenshots are shrunk to; null: as is.")


class UiS1:
    """At step t the policy sees the goal, its own earlier turns and the last screenshots of the expert's way.

    The record: `goal`, and `steps` of {`action` or `action_content`, `thought`, `bbox`}, whose screenshots are the
    prompt's pictures, one a step in order; points and boxes in their pixels. A wrong step is replaced, in what the
    policy reads later, by the expert's (its thought included) while patches are left, otherwise the episode ends.

    info, of each row its own: `step` from 0, `steps` of the expert, `step_reward` = format_weight * format +
    action_weight * action, `format` 1 where a thought stands before an action that can be read, `action` 1 for the
    expert's, 0.5 for its type, 0.1 for another and 0 for none, `match` 1 for the expert's, `patched` 1 where this step
    was replaced, `patches` used so far. A driver that restarts keeps a copy of info for the row that ends and begins
    the next with an empty one.
    """

    Options = UiS1Options
    answers_cut = True  # a turn that its budget cut is a step that went wrong

    def __init__(self, options: UiS1Options | None = None) -> None:
        self.options = options or UiS1Options()

    def open(self, episode: Episode) -> Context:
        """Raises ValueError for a record without goal or steps, or with another number of pictures than of steps."""
        steps = steps_of(episode)
        if len(steps) != len(episode.sizes):
            raise ValueError(
                f"prompt {episode.prompt.id!r} has {len(steps)} steps and {len(episode.sizes)} pictures; each step "
                "needs its screenshot, in order"
            )
        episode.memory.update(history=[], patches=0)
        return self._context(episode)

    def respond(self, episode: Episode) -> Reply | None:
        history: list[str] = episode.memory["history"]
        step, steps = len(history), steps_of(episode)
        expert, said, screen = action_of(steps[step]), episode.said[-1], episode.pictures[-1]
        thought, action = read(said)
        same_type, same = False, False
        if action is not None:
            same_type, same = match(in_original(action, screen), expert, screen.original, self.options.match)
        form = float(bool(thought) and action is not None)
        share = 1.0 if same else 0.5 if same_type else 0.1 if action is not None else 0.0
        patched = not same and (self.options.patches < 0 or episode.memory["patches"] < self.options.patches)
        episode.memory["patches"] += patched
        episode.info.update(
            step=step,
            steps=len(steps),
            step_reward=self.options.format_weight * form + self.options.action_weight * share,
            format=form,
            action=share,
            match=float(same),
            patched=float(patched),
            patches=episode.memory["patches"],
        )
        history.append(written(expert, str(steps[step].get("thought") or ""), screen) if patched else said)
        if step + 1 == len(steps) or not (same or patched):
            return None
        return Reply(restart=self._context(episode))

    def _context(self, episode: Episode) -> Context:
        history: list[str] = episode.memory["history"]
        now = len(history)
        first = max(0, now + 1 - self.options.screenshots)
        goal = GOAL.replace("{goal}", plain(str(episode.prompt.record["goal"])))
        messages = [{"role": "system", "content": self.options.system}] if self.options.system else []
        for step in range(now + 1):
            content = IMAGE if step >= first else HIDDEN
            messages.append({"role": "user", "content": f"{goal}\n{content}" if step == 0 else content})
            if step < now:
                messages.append({"role": "assistant", "content": plain(history[step])})
        limits = (self.options.min_pixels, self.options.max_pixels)
        sizes = episode.sizes
        return Context(messages, [whole(i, sizes[i], fitted(sizes[i], *limits)) for i in range(first, now + 1)])


def steps_of(episode: Episode) -> Sequence[Mapping[str, Any]]:
    """The record's steps. Raises ValueError for a record that is no trajectory."""
    record = episode.prompt.record
    steps = record.get("steps")
    listed = isinstance(steps, list | tuple) and steps and all(isinstance(step, Mapping) for step in steps)
    if steps is None or not listed or not isinstance(record.get("goal"), str):
        raise ValueError(f"prompt {episode.prompt.id!r} needs `goal`, a text, and `steps`, a list of objects")
    for number, step in enumerate(steps):
        if not isinstance(step.get("action_content") or step.get("action"), Mapping):
            raise ValueError(f"prompt {episode.prompt.id!r}: step {number} has no `action` that is an object")
    return steps


def action_of(step: Mapping[str, Any]) -> Action:
    """The expert's action of a step, with the step's `bbox` where the action has none."""
    action = step.get("action_content") or step["action"]
    return action if "bbox" in action or "bbox" not in step else {**action, "bbox": step["bbox"]}
