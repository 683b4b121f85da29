"""Servers that sample for a run are asked before it does anything: by all its processes, which end alike."""

from __future__ import annotations

from mmrl.config import Config, ConfigError
from mmrl.modalities.adapter import Adapter
from mmrl.modalities.meeting import Unmet, meet, name_of_run
from mmrl.training.processes import Processes


def meet_servers(adapter: Adapter, config: Config, processes: Processes) -> None:
    """Raises ConfigError in one line, on every process: where a server cannot be reached or used, or samples for
    another run that still lives. Nothing is held then."""
    run = str(processes.gather(name_of_run())[0])
    try:
        for claims in (False, True):  # hold servers only where every process can use all of them
            with processes.failing_alike(ConfigError):
                if not claims or processes.is_main:
                    _meet(adapter, run, config.name, claims)
    except ConfigError:
        adapter.close()
        raise


def _meet(adapter: Adapter, run: str, title: str, claims: bool) -> None:
    try:
        meet(adapter, run, title, claims)
    except Unmet as error:
        raise ConfigError(f"model.engine: {error}") from error
