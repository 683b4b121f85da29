"""Roles of a stage: trained beside the policy, following it, with modules of their own; saved, resumed, counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import three_roles
import torch
from answers import Answers, AnswersConfig, make, ranks
from saved import tensors
from torch import nn

from mmrl.config import ConfigError, FollowConfig, OptimConfig, RoleConfig, load
from mmrl.training.assemble import assemble
from mmrl.training.cursor import Cursor
from mmrl.training.estimate.stages import held_sizes
from mmrl.training.estimate.tracing import Tracer
from mmrl.training.following import Follower
from mmrl.training.plan import plan_text
from mmrl.training.policy import Policy
from mmrl.training.processes import Processes
from mmrl.training.roles import Role
from mmrl.training.stages.kinds import made_stage
from mmrl.training.tensors import CheckpointError
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"prompt": "x" * (1 + i)}) for i in range(3)]
CHANGES = {
    "a rate": ("fake", {"optim": {"lr": 0.2}, "updates": 2}),
    "a ratio": ("fake", {"optim": {"lr": 0.05}, "updates": 1}),
    "a decay": ("ema", {"follow": {"decay": 0.9, "rise": "linear", "slope": 0.2}}),
    "no optimizer": ("fake", {"follow": {}}),
    "one more": ("ema", {"optim": {"lr": 0.1}, "follow": {"decay": 0.5, "rise": "linear", "slope": 0.2}}),
}


class Watched(three_roles.Novelty):
    """Keeps the policy as it is behind each of its updates."""

    def follow(self):
        super().follow()
        self.seen = [*getattr(self, "seen", []), self.run.adapter.table.detach().clone()]


class Critical(three_roles.Novelty):
    """With a head of its own."""

    def make_roles(self):
        self.head = nn.Linear(2, 1)
        options = RoleConfig(optim=OptimConfig(lr=0.1))
        return [*super().make_roles(), self.role("head", options, dict(self.head.named_parameters()))]


@pytest.fixture
def values(tmp_path):
    def config(name="run", kind=f"{three_roles.__file__}:Novelty", **options):
        stage = {"kind": kind, "name": "own", "steps": 3, "optim": {"lr": 0.05}, **options}
        return {"name": name, "out": str(tmp_path), "data": {"prompts": "given"}, "stages": [stage]}

    return config


@pytest.fixture
def stage(values):
    """A stage that was never trained."""
    loop = make(values(kind=f"{__file__}:Critical"), PROMPTS)
    loop.policy.select(None, "own")
    section = loop.run.config.stages[0]
    return Critical(loop.run, section, loop.policy, loop.cursor)


def saved(config):
    return tensors(Path(config["out"]) / config["name"] / "checkpoints" / "latest")


def entropy(adapter):
    chances = adapter.table.detach().softmax(-1)
    return float(-(chances * chances.log()).sum(-1).mean())


# ---------------------------------------------------------------- an objective from a file


def test_three_roles_from_a_file_on_a_toy_adapter(values):
    """The policy grows more diverse; each role moves at its own pace, the average as its formula says."""
    config = values(kind=f"{__file__}:Watched", steps=6)
    loop = make(config, PROMPTS)
    loop.train()
    roles = loop.stage.roles
    assert {name: learner.steps for name, learner in loop.stage.learners.items()} == {"policy": 6, "fake": 12}
    assert entropy(loop.adapter) > entropy(Answers(AnswersConfig())) + 0.01
    average = loop.adapter.start
    for kept, table in zip([0.0, 0.2, 0.4, 0.5, 0.5, 0.5], loop.stage.seen, strict=True):
        average = kept * average + (1 - kept) * table
    torch.testing.assert_close(roles["ema"].weights["table"].detach(), average, rtol=0, atol=1e-12)
    assert not torch.equal(roles["fake"].weights["table"], loop.adapter.table)
    for name, role in roles.items():
        assert torch.equal(saved(config)[f"role.{name}/param/table"], role.weights["table"].detach())


@pytest.mark.parametrize("model", [{}, {"train": "lora", "lora": {"rank": 2, "alpha": 4}}], ids=["full", "lora"])
def test_the_same_file_on_pictures(tiny, helpers, model):
    kind = f"{three_roles.__file__}:Novelty"
    config = tiny(model=model, stages=[{"kind": kind, "name": "own", "steps": 2, "optim": {"lr": 1e-3}}], rewards=[])
    config["data"].pop("records"), config["data"].pop("records_count")
    helpers.train(config)
    tensors = saved(config)
    by_role = {
        name: {k.split("/param/")[1]: v for k, v in tensors.items() if k.startswith(f"role.{name}/param/")}
        for name in ("policy", "fake", "ema")
    }
    assert by_role["policy"].keys() == by_role["fake"].keys() == by_role["ema"].keys()
    assert all(("lora" in name) == bool(model) for name in by_role["fake"])
    for one, other in (("policy", "fake"), ("policy", "ema"), ("fake", "ema")):
        assert max(float((by_role[one][k] - v).abs().max()) for k, v in by_role[other].items()) > 1e-5


def test_two_processes_train_all_roles_as_one_does(values):
    one = make(values("one"), PROMPTS)
    one.train()
    for loop in ranks(lambda p: (r := make(values("two"), PROMPTS, processes=p), r.train())[0]):
        for name, role in loop.stage.roles.items():
            wanted = one.stage.roles[name].weights["table"]
            torch.testing.assert_close(role.weights["table"], wanted, rtol=0, atol=1e-9)


# ---------------------------------------------------------------- resumes


@pytest.mark.parametrize("role, options", CHANGES.values(), ids=CHANGES)
def test_a_resume_with_other_options_of_a_role_is_refused_unless_allowed(values, role, options):
    make(values(), PROMPTS).train()
    changed = values(steps=4, **{role: options})
    with pytest.raises(CheckpointError, match=rf"began with another config(.|\n)*stages\.own\.{role}\."):
        make(changed, PROMPTS).train(resume=True)
    loop = make(changed, PROMPTS, allow=[f"stages.own.{role}"])
    if options == {"follow": {}}:  # the stage of the file trains its fake
        with pytest.raises(KeyError):
            loop.train(resume=True)
        return
    loop.train(resume=True)
    assert loop.cursor.total_steps == 4 and loop.stage.roles["ema"].seen == 4


# ---------------------------------------------------------------- what acts, and what may not


def test_each_role_acts_and_what_cannot_says_so(stage):
    with torch.no_grad():
        for number, name in enumerate(("fake", "ema")):
            stage.roles[name].weights["table"].fill_(1.0 + number)
    table = stage.run.adapter.table
    for name, value in (("fake", 1.0), ("ema", 2.0)):
        with stage.acting(name):
            assert bool((table == value).all()) and not torch.is_grad_enabled()
            with stage.acting("policy"):
                assert torch.equal(table, stage.run.adapter.start)
    with pytest.raises(ValueError, match="role ema is not trained: leave `gradient` out"):
        stage.acting("ema", gradient=True)
    with pytest.raises(ValueError, match="role head has modules of its own"):
        stage.acting("head")
    with pytest.raises(KeyError, match="other"):
        stage.acting("other")
    with stage.acting("fake", gradient=True):
        table.sum().backward()
        with pytest.raises(RuntimeError, match="a step of fake inside of a block `acting`"):
            stage.learners["fake"].step()
        with pytest.raises(RuntimeError, match="a step of policy inside"):
            stage.learners["policy"].step()
    assert table.grad is None and stage.learners["fake"].step() > 0
    with pytest.raises(RuntimeError, match="role fake follows nothing"):
        stage.roles["fake"].follow()


@pytest.mark.parametrize("options", [RoleConfig(), RoleConfig(follow=FollowConfig(), optim=OptimConfig())])
def test_modules_of_ones_own_that_nothing_trains_or_that_follow_are_refused(stage, options):
    with pytest.raises(ConfigError, match="role head: modules of its own are trained, by `optim`"):
        stage.role("head", options, {})


@pytest.mark.parametrize("name", ["reference", "a/b"])
def test_a_name_that_means_something_else_is_refused(name):
    with pytest.raises(ConfigError, match="a role cannot be called"):
        Role(name, {})


def test_a_trained_role_may_follow_too(values):
    """The fake score of Flash-DMD: its own optimizer, and a pull to the policy."""
    fake = {"optim": {"lr": 0.05}, "updates": 2}
    kept, pulled = (make(values(f"{n}", fake=o), PROMPTS) for n, o in enumerate((fake, fake | {"follow": {}})))
    kept.train(), pulled.train()
    policy, fake = (pulled.stage.roles[name].weights["table"] for name in ("policy", "fake"))
    assert torch.equal(policy, fake)  # a decay of 0, behind the last update
    assert not torch.equal(*(kept.stage.roles[name].weights["table"] for name in ("policy", "fake")))


# ---------------------------------------------------------------- what they hold


class Counting(Tracer):
    counted = torch.Tensor


def test_a_role_made_of_lora_adds_little_to_the_base(tiny):
    """Counted by storages: a role holds the adapter's matrices once, and acting copies nothing."""
    build = {**tiny()["model"]["build"], "heads": 4, "head_dim": 32, "layers": 2}
    kind = {"kind": f"{three_roles.__file__}:Novelty", "name": "own", "steps": 1}
    config = load(tiny(model={"build": build, "train": "lora", "lora": {"rank": 1}}, stages=[kind], rewards=[]))
    run = assemble(config, Processes("cpu"))
    policy = Policy(run.adapter)
    policy.select(None, "own")
    base = sum(t.numel() * t.element_size() for t in {id(t): t for t in run.adapter.weights()}.values())
    trained = sum(p.numel() * p.element_size() for p in policy.parameters.values())
    with Counting() as counted:
        stage = made_stage(run, config.stages[0], policy, Cursor())
        held = counted.now
        with stage.acting("fake", gradient=True), stage.acting("ema"):
            assert counted.now == held
    assert held == 2 * trained and trained < 0.05 * base
    sizes = held_sizes(stage)
    assert (sizes.roles, sizes.moments, sizes.trained) == (2 * trained, 4 * trained, trained)


# ---------------------------------------------------------------- how they move, what they are planned to be


# decay, rise, start, slope, every -> the shares that stay, behind the updates 1 to 4 (1: nothing moves).
FOLLOWED = {
    "as it is": ({}, [0.0, 0.0, 0.0, 0.0]),
    "constant": ({"decay": 0.9}, [0.9, 0.9, 0.9, 0.9]),
    "average": ({"decay": 0.4, "rise": "average"}, [2 / 11, 3 / 12, 4 / 13, 5 / 14]),
    "average, full": ({"decay": 0.2, "rise": "average"}, [2 / 11, 0.2, 0.2, 0.2]),
    "linear": ({"decay": 0.3, "rise": "linear", "start": 0.1, "slope": 0.1}, [0.1, 0.2, 0.3, 0.3]),
    "linear behind a flat": ({"decay": 0.9, "rise": "linear", "slope": 0.4, "flat": 1}, [0.0, 0.0, 0.4, 0.8]),
    "every": ({"every": 2}, [1.0, 0.0, 1.0, 0.0]),
    "every, rising": ({"decay": 0.5, "rise": "linear", "slope": 0.25, "every": 2}, [1.0, 0.0, 1.0, 0.25]),
}


@pytest.mark.parametrize("options, kept", FOLLOWED.values(), ids=FOLLOWED)
def test_weights_follow_as_their_schedule_says(options, kept):
    leader, weights = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    follower, value = Follower(FollowConfig(**options), weights, leader), 1.0
    for n, share in enumerate(kept, 1):
        leader["w"] += n
        follower.follow(n)
        value = share * value + (1 - share) * float(leader["w"])
        assert float(weights["w"]) == pytest.approx(value)


def test_updates_of_a_role_by_step():
    options = RoleConfig(optim=OptimConfig(), every=3, updates=2)
    assert [options.updates_in(step) for step in range(5)] == [2, 0, 0, 2, 0]
    assert options.all_updates(5) == 4
    assert RoleConfig().updates_in(0) == 0


@pytest.mark.parametrize(
    "role, needs",
    [
        ({"updates": 3}, "the role's `optim`"),
        ({"every": 3}, "the role's `optim`"),
        ({"follow": {"rise": "average"}}, "`decay` above 0"),
        ({"follow": {"decay": 0.5, "slope": 0.1}}, "`rise: linear`"),
        ({"follow": {"decay": 0.5, "rise": "average", "start": 0.1}}, "`rise: linear`"),
    ],
)
def test_options_of_a_role_without_effect_are_refused(values, role, needs):
    config = {**values(ema=role), "modality": f"{Path(__file__).parent / 'answers.py'}:Answers"}
    with pytest.raises(ConfigError, match=f"stages.0.ema.*has no effect here, it needs {needs}"):
        load(config)


def test_a_plan_says_what_roles_do(values):
    config = load({**values(), "modality": f"{Path(__file__).parent / 'answers.py'}:Answers"})
    lines = plan_text(config)
    assert "role fake: 2 updates every step: AdamW, lr 0.05 constant, gradient norm clipped at 1\n" in lines
    assert "role ema: follows the policy with decay 0.5, from 0 by 0.2\n" in lines
