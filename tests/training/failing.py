"""A modality for tests: Answers, of which one process fails, as `model.what` says."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from answers import Answers, AnswersConfig

from mmrl.config import ConfigError


def fill_the_disk() -> None:
    """No file of this process can be written any more."""

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.mkdir = full  # type: ignore[assignment]
    Path.write_text = full  # type: ignore[method-assign]


class FailingConfig(AnswersConfig):
    what: str = ""
    on: int = 1
    others_sleep: float = 0.0  # in the same place


class Failing(Answers):
    Config = FailingConfig

    def __init__(self, config: FailingConfig) -> None:
        super().__init__(config)
        self.sick = config.on == int(os.environ.get("RANK", "0"))
        self.late = False  # in the second step
        self.fail("load")

    def fail(self, where: str) -> None:
        if not self.config.what.startswith(where):
            return
        if not self.sick:
            time.sleep(self.config.others_sleep)
            return
        match self.config.what.partition("_")[2]:
            case "bug":
                raise KeyError("boom")
            case "memory":
                raise MemoryError
            case "exit":
                sys.exit(0)
            case "disk":
                fill_the_disk()
            case "record":
                raise ConfigError("records.jsonl, line 7: no picture")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)

    def rollout(self, groups: Sequence[Any], n: int, step: int, seed: int) -> list[Any]:
        if step == 1:
            self.late = True
            self.fail("rollout")
        return super().rollout(groups, n, step, seed)

    def logprobs(self, samples: Sequence[Any], columns: torch.Tensor, **asks: bool) -> Any:
        found = super().logprobs(samples, columns, **asks)
        if torch.is_grad_enabled():
            if self.late:
                self.fail("replay")
            if self.sick and self.config.what == "nan" and self.late:
                found.logp = found.logp * torch.nan
        return found

    def supervised_loss(self, records: Sequence[dict], objective: str, seed: int) -> torch.Tensor:
        self.fail("loss")
        return super().supervised_loss(records, objective, seed)

    def save(self, folder: Any) -> None:
        super().save(folder)
        self.fail("save")
