"""A stage from a file with three roles: novelty. An average of the policy draws samples, a fake learns to tell how
likely they are, and the policy learns to draw those that the fake finds unlikely."""

from __future__ import annotations

import torch

from mmrl.config import FollowConfig, OptimConfig, RoleConfig
from mmrl.config import Stage as StageConfig
from mmrl.training.stages.base import Stage
from mmrl.types import Group


class NoveltyOptions(StageConfig):
    samples: int = 4  # of every prompt
    fake: RoleConfig = RoleConfig(optim=OptimConfig(lr=0.05), updates=2)
    ema: RoleConfig = RoleConfig(follow=FollowConfig(decay=0.5, rise="linear", slope=0.2))


class Novelty(Stage[NoveltyOptions]):
    Options = NoveltyOptions

    def step(self):
        run, cursor, fakes = self.run, self.cursor, self.options.fake.updates_in(self.cursor.step)
        groups = [Group(prompt, index) for index, prompt in enumerate(run.data.prompts)]
        with self.acting("ema"):
            mine = groups[run.processes.rank :: run.processes.world]
            drawn = run.adapter.rollout(mine, self.options.samples, cursor.step, self.seed)
        cursor.phase = "update"
        while cursor.update < fakes + 1:  # the fake's, then the policy's
            name = "fake" if cursor.update < fakes else "policy"
            for group in drawn[cursor.micro :]:
                with self.acting("fake"):
                    likely = self.likelihoods(group)
                with self.acting(name, gradient=True):
                    weights = -torch.ones_like(likely) if name == "fake" else likely - likely.mean()
                    loss = (weights * self.likelihoods(group)).sum() / (len(groups) * self.options.samples)
                    loss.backward()
                cursor.sums.add({name: float(loss.detach())})
                cursor.micro += 1
                run.point("micro")
            cursor.sums.note(f"norm/{name}", self.learners[name].step())
            if name == "policy":
                self.follow()
            cursor.end_update()
            run.point("update")
        row = cursor.sums.combined(run.processes)
        return {"loss": row.parts["policy"], "loss/fake": row.parts["fake"], "grad_norm": row.known["norm/policy"]}

    def likelihoods(self, group):
        columns = [torch.arange(len(sample.actions.logp)) for sample in group.samples]
        return torch.stack([self.run.adapter.logprobs([s], c).logp.mean() for s, c in zip(group.samples, columns)])
