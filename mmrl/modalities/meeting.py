"""Servers that sample for a run, asked before it does anything."""

from __future__ import annotations

from mmrl.engines.holding import Holder
from mmrl.engines.http_client import ServerError
from mmrl.modalities.adapter import Adapter


class Unmet(ValueError):
    """A server that cannot be reached or used, or options of one; in one line."""


def name_of_run() -> str:
    """By which its servers tell it from others: of its main process."""
    return str(Holder.own())


def meet(adapter: Adapter, run: str, title: str, claims: bool) -> None:
    """See Adapter.meet; run: the main process's `name_of_run`. Raises Unmet."""
    holder = Holder.read(run)
    assert holder is not None
    try:
        adapter.meet(holder, title, claims)
    except (ServerError, ValueError, OSError, ImportError) as error:
        raise Unmet(" ".join(str(error).split())) from error
