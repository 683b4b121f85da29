"""From a word of the command line to what is served."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmrl.rewarding.load import ARTIFACT, load_reward
from mmrl.serving.model import Served, ServedComparer, ServedReward, ServedScorer
from mmrl.share import resolve


def open_served(name: str, options: Mapping[str, Any], max_pixels: int, called: str | None = None) -> Served:
    """A judge by the folder of its run or checkpoint (mmrl.judging.load), or a reward by its name.

    called: its name in answers; None: its own. Raises a ValueError of one line where there is no such thing.
    """
    folder = resolve(name)
    if not folder.is_dir():
        loaded = load_reward(name, options)
        if loaded.reads != ARTIFACT:
            raise ValueError(f"reward {name!r} reads {loaded.reads}, which nobody sends; it scores in a training only")
        return ServedReward(loaded, options, max_pixels, called)
    from mmrl.judging.load import open_judge

    judge: Any = open_judge(str(folder), **options)
    own = called or folder.resolve().name
    return ServedComparer(judge, own) if hasattr(judge, "compare") else ServedScorer(judge, own)


def token_of(variable: str) -> str:
    """The token in an environment variable; "" where it is not set. Raises ValueError for one that no header holds."""
    token = os.environ.get(variable, "").strip()
    if not (token.isascii() and all(map(str.isprintable, token))):
        raise ValueError(f"the environment variable {variable} is no token: it holds what no header can")
    return token
