"""Which prompts a policy can be asked: looked at before a run, or when they are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import numpy as np

from mmrl.config import ConfigError
from mmrl.data.held import only
from mmrl.media import MediaError
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.reporting.progress import counted
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
) -> Sequence[Prompt]:
    """The prompts that the adapter can roll out; the others are counted and told.

    first: how many it is asked about, unless it can use none of these; the rest counts as usable. None: all.
    told: the words of a bar over them; None: no bar. processes: those that share the work, each with the same prompts.
    Raises ConfigError without any, and for a picture or a sound that cannot be used unless `on_bad` is skip.
    """
    asked = prompts if first is None else prompts[:first]
    reasons = _reasons(adapter, asked if told is None else counted(asked, told), on_bad, processes)
    if len(reasons) == len(asked) < len(prompts):
        return usable(adapter, prompts, on_bad, None, told, processes)
    if reasons:
        number = min(reasons)
        message = f"{len(reasons)} of {len(prompts)} prompts cannot be used, first {prompts[number].id!r}: "
        message += reasons[number]
        if len(reasons) == len(prompts):
            raise ConfigError(message)
        warnings.warn(f"{message}; dropped", stacklevel=2)
    keep = np.ones(len(prompts), dtype=bool)
    keep[list(reasons)] = False
    return only(prompts, keep)


def _reasons(adapter: Adapter, prompts: Iterable[Prompt], on_bad: str, processes: Processes | None) -> dict[int, str]:
    """Why prompts cannot be used, by their numbers. Every process looks at its share, and all know, and say, the same.

    Raises ConfigError for the first whose picture or sound cannot be used, unless `on_bad` is skip.
    """
    rank, world = (processes.rank, processes.world) if processes else (0, 1)
    found: dict[int, str] = {}
    stop: tuple[int, str] | None = None
    with warnings.catch_warnings(record=True) if world > 1 else nullcontext() as heard:
        for number, prompt in enumerate(prompts):
            if number % world != rank:
                continue
            try:
                why = why_unfit(adapter, prompt, on_bad)
            except ConfigError as error:
                stop = number, str(error)
                break
            if why:
                found[number] = why
    if processes and world > 1:
        shares = processes.gather([list(found.items()), stop, [str(one.message) for one in heard or ()]])
        found = {number: why for some, _, _ in shares for number, why in some}
        stop = min((at for _, at, _ in shares if at), default=None)
        for message in dict.fromkeys(message for _, _, some in shares for message in some):
            warnings.warn(message, stacklevel=3)
    if stop:
        raise ConfigError(stop[1])
    return found


class Fitting:
    """Looks at prompts when they are drawn for the first time. Every process draws and looks at the same.

    adapter, on_bad: see why_unfit.
    """

    def __init__(self, adapter: Adapter, prompts: Sequence[Prompt], on_bad: str) -> None:
        self.adapter, self.prompts, self.on_bad = adapter, prompts, on_bad
        self._fit = np.zeros(len(prompts), dtype=bool)
        self._unfit: set[int] = set()

    def fits(self, number: int) -> bool:
        """Whether prompt `number` can be used; one that cannot is told. Raises as why_unfit."""
        if self._fit[number] or number in self._unfit:
            return number not in self._unfit
        prompt = self.prompts[number]
        why = why_unfit(self.adapter, prompt, self.on_bad)
        if why is None:
            self._fit[number] = True
            return True
        self._unfit.add(number)
        count = len(self._unfit)
        if count <= _WARNINGS or not count & (count - 1):  # then at each power of 2
            warnings.warn(f"prompt {prompt.id!r} cannot be used: {why}; passed over, {count} so far", stacklevel=2)
        return False
