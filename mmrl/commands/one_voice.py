"""Errors that every process of a launcher comes to before they are together, such as a wrong key: told once.

Processes that do not know each other yet can leave words in the store of `torchrun` (and `accelerate launch`), in which
they will meet. Under other launchers each tells its own.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any

from mmrl.launched import is_main, processes

# How long a process waits for the first one to come to the same error; it may still be importing.
PATIENCE_S = 5.0
_KEY = "mmrl/refused"


def to_tell(message: str) -> str | None:
    """What this process has to print of its error: None where the first process prints the same."""
    if processes() == 1 or _together():
        return message
    own = message if is_main() else f"process {os.environ['RANK']}: {message}"
    store = _store()
    if store is None:
        return own
    try:
        if is_main():
            store.set(_KEY, message)
            return message
        store.wait([_KEY], timedelta(seconds=PATIENCE_S))
        return None if store.get(_KEY) == message.encode() else own
    except RuntimeError:  # the first process has no error, or its launcher is gone
        return own


def _together() -> bool:
    """Whether processes have met: then they have other ways to tell of each other."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()


def _store() -> Any:
    """The launcher's, or None."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    import torch.distributed as dist

    try:
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=PATIENCE_S),
        )
        return dist.PrefixStore(f"attempt_{start}", store)
    except (KeyError, ValueError, RuntimeError):
        return None
