"""Run by two processes: trainings, one after the other, whose engine in each process stands in for vLLM's.

`python copying.py JOBS.json`: a list of configs. The engine samples from its own copy of the policy, which gets what
vLLM would, and writes down what it sees of the policy's weights meanwhile, into `seen_RANK.json` of the run's folder.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

import mmrl
import mmrl.engines.vllm_colocated as colocated
import mmrl.training.reports
from mmrl.engines.load import load_engine
from mmrl.engines.vllm_wire import Drawn, write_lora
from mmrl.modalities.shards import Shards

SEEN: dict = {}
POLICY: list = []  # the modules whose weights are divided
COPIES: list = []
PLAIN, WHOLE = Shards.__init__, Shards.whole


def noted(self, models, *args, **options):
    PLAIN(self, models, *args, **options)
    POLICY[:] = [model.module for model in models]


def beside(self):
    """Count where all weights are gathered while the engine has its own, too."""
    SEEN["beside"] = SEEN.get("beside", 0) + any(not copy.asleep for copy in COPIES)
    return WHOLE(self)


def gathered() -> float:
    """The share of the policy's divided weights that is whole in this process now."""
    weights = [p for module in POLICY for p in module.parameters() if p.ndim]
    count = sum(p.numel() for p in weights)
    return sum(p.numel() for p in weights if not isinstance(p, DTensor)) / count if count else 0.0


class Copy:
    flows = False

    def __init__(self, path, dtype, max_model_len, lora, perceives, sleep, options):
        self.path, self.max_model_len, self.sleep = path, max_model_len, sleep
        self.take(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval())
        self.asleep = False
        COPIES[:] = [self]

    def take(self, model):
        self.model, self.engine = model, load_engine({}, model, None, None)

    def sample(self, requests, sampling, adapted):
        assert not (self.asleep and self.sleep == 2)
        SEEN["sampling"] = max(SEEN.get("sampling", 0), gathered())
        prompts, seeds = [torch.tensor(r.ids) for r in requests], [[r.seed] for r in requests]
        made = [one for (one,) in self.engine.generate(prompts, 1, sampling, seeds)]
        SEEN.setdefault("ids", []).append([one.ids.tolist() for one in made])
        return [Drawn(m.ids.tolist(), m.logp.tolist(), m.stop == "eos", r.ids) for m, r in zip(made, requests)]

    def load(self, weights, version):
        own, left = self.model.state_dict(), set(self.model.state_dict())
        for name, weight in weights():
            SEEN["loading"] = max(SEEN.get("loading", 0), gathered())
            SEEN["largest"] = max(SEEN.get("largest", 0), weight.numel())
            own[name].copy_(weight)
            left.discard(name)
        assert not left, left
        self.asleep = False

    def load_lora(self, save, version):
        from peft import PeftModel

        SEEN["loading"] = max(SEEN.get("loading", 0), gathered())
        with tempfile.TemporaryDirectory() as folder:
            write_lora(save, Path(folder))
            base = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
            self.take(PeftModel.from_pretrained(base, folder).merge_and_unload().eval())

    def meet(self, run, title, claims): ...

    def settle(self, version): ...

    def returned(self):
        return False

    def counts(self):
        return {}

    def rest(self):
        self.asleep = True

    def close(self): ...


if __name__ == "__main__":
    torch.set_num_threads(1)
    mmrl.training.reports.write_report = lambda folder: folder  # most of the time of such a run
    Shards.__init__, Shards.whole = noted, beside
    colocated.Colocated = Copy
    for config in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        SEEN.clear(), POLICY.clear(), COPIES.clear()
        mmrl.train(config, quiet=True)
        folder = Path(config["out"]) / config["name"]
        (folder / f"seen_{os.environ['RANK']}.json").write_text(json.dumps(SEEN), encoding="utf-8")
