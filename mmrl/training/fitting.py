"""Which prompts a policy can be asked, and rewards can score: looked at before a run, or when they are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import numpy as np

from mmrl.config import ConfigError
from mmrl.data.checks import refused
from mmrl.data.held import Prompts, only
from mmrl.data.rows import Row
from mmrl.media import MediaError
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.reporting.progress import counted
from mmrl.rewarding.load import LoadedReward
from mmrl.training.processes import Processes
from mmrl.types import Prompt

_WARNINGS = 10  # prompts that are passed over told one by one


def why_unfit(adapter: Adapter, prompt: Prompt, on_bad: str) -> str | None:
    """Why the adapter cannot roll a prompt out, or None. Raises ConfigError for a picture or a sound that cannot be
    used, unless `on_bad` is skip."""
    try:
        return adapter.usable(prompt)
    except MediaError as error:
        if on_bad == "stop":
            raise ConfigError(f"prompt {prompt.id!r}: {error}; mend it, or set data.on_bad_record: skip") from None
        return str(error)
    except Unsupported as error:  # by the run as it is configured
        raise ConfigError(str(error)) from None


def usable(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    on_bad: str,
    first: int | None = None,
    told: str | None = None,
    processes: Processes | None = None,
) -> tuple[Sequence[Prompt], int]:
    """(the prompts that the adapter can roll out, how many of the first of them it was asked about); the others are
    counted and told.

    first: how many it is asked about, unless it can use none of these; the rest counts as usable, and Fitting asks when
    one is drawn. None: all.
    told: the words of a bar over them; None: no bar. processes: those that share the work, each with the same prompts.
    Raises ConfigError without any, and for a picture or a sound that cannot be used unless `on_bad` is skip.
    """
    asked = prompts if first is None else prompts[:first]
    look = Look(adapter, prompts, on_bad)
    numbers = range(len(asked))
    reasons = _reasons(look, numbers if told is None else counted(numbers, told), processes, hear=True)
    if len(reasons) == len(asked) < len(prompts):
        return usable(adapter, prompts, on_bad, None, told, processes)
    if reasons:
        number = min(reasons)
        message = f"{len(reasons)} of {len(asked)} prompts cannot be used, first {prompts[number].id!r}: "
        message += reasons[number]
        if len(reasons) == len(prompts):
            raise ConfigError(message)
        warnings.warn(f"{message}; dropped", stacklevel=2)
    keep = np.ones(len(prompts), dtype=bool)
    keep[list(reasons)] = False
    return only(prompts, keep), len(asked) - len(reasons)


def check_prompts(prompts: Sequence[Prompt], rewards: Sequence[LoadedReward], on_bad: str, first: int) -> None:
    """Ask each reward whether it can score the prompts, before anything is trained.

    first: how many prompts are asked about one by one; Fitting asks about the others.
    """
    for reward in rewards:
        if reward.check_all is not None and (why := reward.check_all(prompts)):
            raise ConfigError(f"reward {reward.name}: {why}")
        if reward.check_prompt is None:
            continue
        problems = [(p, why) for p in prompts[:first] if (why := reward.check_prompt(p))]
        if problems:
            warnings.warn(_unsuited(reward, problems, on_bad), stacklevel=2)


def _unsuited(reward: LoadedReward, problems: Sequence[tuple[Prompt, str]], on_bad: str) -> str:
    """What is said of prompts that do not suit a reward. Raises ConfigError with it, unless `on_bad` is skip."""
    prompt, why = problems[0]
    message = f"reward {reward.name}: {len(problems)} prompts do not suit it, first {prompt.id!r}: {why}"
    if on_bad == "stop":
        raise ConfigError(f"{message}; mend them, or set data.on_bad_record: skip to leave them unscored")
    return message


class Look:
    """Looks at prompts by their numbers: at what reading them left for later, and then asks the adapter and rewards.

    on_bad: see why_unfit. told: what is to be warned of, though the prompts can be used.
    """

    def __init__(
        self, adapter: Adapter, prompts: Sequence[Prompt], on_bad: str, rewards: Sequence[LoadedReward] = ()
    ) -> None:
        self.adapter, self.prompts, self.on_bad = adapter, prompts, on_bad
        self.rewards = [reward for reward in rewards if reward.check_prompt is not None]
        self.told: list[str] = []

    def __call__(self, number: int) -> str | None:
        """Why a prompt cannot be used, or None. Raises ConfigError as why_unfit and check_prompts."""
        prompt = self.prompts[number]
        if isinstance(self.prompts, Prompts):
            try:
                self.prompts.look(number)
            except ValueError as error:
                refused(Row(self.prompts.where(number), number), error, self.on_bad)
                return str(error)
        why = why_unfit(self.adapter, prompt, self.on_bad)
        for reward in self.rewards if why is None else ():
            if reward.check_prompt is not None and (unsuited := reward.check_prompt(prompt)):
                self.told.append(_unsuited(reward, [(prompt, unsuited)], self.on_bad))
        return why


def _reasons(look: Look, numbers: Iterable[int], processes: Processes | None, hear: bool) -> dict[int, str]:
    """Why prompts cannot be used, by their numbers. Every process looks at its share, and all know, and say, the same.

    hear: whether what one is warned of is told by all; no other thread may run meanwhile.
    Raises ConfigError for the first whose picture or sound cannot be used, unless `on_bad` is skip.
    """
    rank, world = (processes.rank, processes.world) if processes else (0, 1)
    found: dict[int, str] = {}
    stop: tuple[int, str] | None = None
    look.told.clear()
    with warnings.catch_warnings(record=True) if hear and world > 1 else nullcontext() as heard:
        for place, number in enumerate(numbers):
            if place % world != rank:
                continue
            try:
                why = look(number)
            except ConfigError as error:
                stop = place, str(error)
                break
            if why:
                found[number] = why
    told = [*look.told, *(str(one.message) for one in heard or ())]
    if processes and world > 1:
        shares = processes.gather([list(found.items()), stop, told])
        found = {number: why for some, _, _ in shares for number, why in some}
        stop = min((at for _, at, _ in shares if at), default=None)
        told = list(dict.fromkeys(message for _, _, some in shares for message in some))
    for message in told:
        warnings.warn(message, stacklevel=3)
    if stop:
        raise ConfigError(stop[1])
    return found


class Fitting:
    """Looks at prompts when they are drawn for the first time: each process at its share, and all know the same.

    known: how many of the first were looked at before. processes: those that all call.
    """

    def __init__(self, look: Look, known: int = 0, processes: Processes | None = None) -> None:
        self.look, self.processes = look, processes
        self._seen = np.zeros(len(look.prompts), dtype=bool)
        self._seen[:known] = True
        self._unfit: set[int] = set()

    def fit(self, numbers: Sequence[int]) -> list[int]:
        """Those of the prompts that can be used, in their order; one that cannot is told. Raises as Look."""
        new = [number for number in dict.fromkeys(numbers) if not self._seen[number]]
        if new:
            self._look_at(new)
        return [number for number in numbers if number not in self._unfit]

    def _look_at(self, new: Sequence[int]) -> None:
        reasons = _reasons(self.look, new, self.processes, hear=False)
        self._seen[list(new)] = True
        for number in new:
            if number not in reasons:
                continue
            self._unfit.add(number)
            count = len(self._unfit)
            if count <= _WARNINGS or not count & (count - 1):  # then at each power of 2
                told = f"prompt {self.look.prompts[number].id!r} cannot be used: {reasons[number]}"
                warnings.warn(f"{told}; passed over, {count} so far", stacklevel=3)
