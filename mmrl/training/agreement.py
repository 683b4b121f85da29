"""Whether the processes of a run read the same: a node that sees another file would train on other data, unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mmrl.config import ConfigError
from mmrl.training.processes import Processes


def refuse_unlike(processes: Processes, made: Mapping[str, Any]) -> None:
    """Raise ConfigError, on all processes, where they have not read the same config, data, pairs or code.

    made: of provenance.made_with. Every process must call.
    """
    if processes.world == 1:
        return
    config = hashlib.sha256(json.dumps(made["config"], sort_keys=True, default=str).encode()).hexdigest()[:12]
    # What an object of Python closes over may be of its process, such as a device, so only code of files is compared.
    code = {f"code of {name}": mark for name, mark in made["code"].items() if not name.startswith("object:")}
    mine = {"the config": config, **made["content"], **code}
    seen = processes.gather(mine)
    with processes.failing_alike(ConfigError):
        for rank, other in enumerate(seen):
            for key in dict.fromkeys([*seen[0], *other]):
                if seen[0].get(key) != other.get(key):
                    raise ConfigError(
                        f"processes see different files: {key} is {seen[0].get(key, 'not there')} for process 0, and "
                        f"{other.get(key, 'not there')} for process {rank}; give all nodes the same, from a shared "
                        "folder for one"
                    )
