"""Frozen parts wait in main memory: where each is when, how often it is moved, and that nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmrl.config import load
from mmrl.modalities.image.parking import RUNS, Parking
from mmrl.parking import NoRoom, Parked

META = torch.device("meta")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2, bias=False)
        self.two = nn.Linear(2, 2, bias=False)
        self.two.weight = self.one.weight  # tied
        self.register_buffer("table", torch.ones(3))


class FakeFamily:
    """Its methods say where the parts are while they run."""

    def __init__(self) -> None:
        self.text_encoders = {"text_encoder": Encoder(), "text_encoder_2": Encoder()}
        self.vae, self.denoisers = Encoder(), {"denoiser": Encoder()}
        self.pipeline = SimpleNamespace(
            components={
                **self.text_encoders,
                "vae": self.vae,
                "transformer": self.denoisers["denoiser"],
                "tokenizer": 1,
            }
        )
        self.seen: list[tuple[str, str]] = []

    def where(self) -> tuple[str, str]:
        """Device types of (text encoders, autoencoder), of all their tensors."""
        found = []
        for modules in (self.text_encoders.values(), [self.vae]):
            (kind,) = {t.device.type for m in modules for t in (*m.parameters(), *m.buffers())}
            found.append(kind)
        return found[0], found[1]

    def _note(self, *_: Any) -> None:
        self.seen.append(self.where())

    encode_against = vae_latents = decode = reconstruct = _note

    def encode(self, pictures: bool = False) -> None:
        self._note()
        if pictures:  # as families that read pictures do
            self.encode_pixels()
            self._note()

    def encode_pixels(self) -> None:
        self.vae_latents()


def made(trained: str = "", device: torch.device = META) -> tuple[FakeFamily, Parking]:
    family: Any = FakeFamily()
    for name, modules in {"text_encoders": family.text_encoders.values(), "vae": [family.vae]}.items():
        for module in modules:
            module.requires_grad_(name == trained)
    parking = Parking(family)
    parking.settle(device)
    return family, parking


REST, ENCODING, DECODING, ALL = ("cpu", "cpu"), ("meta", "cpu"), ("cpu", "meta"), ("meta", "meta")


@pytest.mark.parametrize("method", RUNS)
def test_a_part_is_on_the_device_while_it_runs_and_only_then(method):
    family, parking = made()
    weight = family.text_encoders["text_encoder"].one.weight
    assert family.where() == REST
    assert family.denoisers["denoiser"].one.weight.device == META
    getattr(family, method)()
    (part,) = RUNS[method]
    assert family.seen == [ENCODING if part == "text_encoders" else DECODING]
    assert family.where() == REST and parking.moves == {part: 1}
    encoder = family.text_encoders["text_encoder"]
    assert encoder.one.weight is weight is encoder.two.weight, "the same tensors as before, and tied"


def test_parts_that_are_used_inside_of_others_are_moved_once():
    family, parking = made()
    with parking.using("text_encoders"):
        family.encode(pictures=True)
        family.encode()
        assert family.where() == ENCODING
    assert family.seen == [ENCODING, ALL, ENCODING, ENCODING]
    assert parking.moves == {"text_encoders": 1, "vae": 1}


def test_where_the_device_has_no_room_nothing_has_moved(monkeypatch):
    family, parking = made()
    brought = []

    def full(tensor, device):
        if brought:
            raise torch.OutOfMemoryError("no room")
        brought.append(tensor)
        return tensor.to(device)

    monkeypatch.setattr("mmrl.parking.to_device", full)
    weights = list(family.text_encoders["text_encoder"].parameters())
    with pytest.raises(NoRoom, match="text encoders: no room on meta"):
        family.encode()
    assert brought and family.where() == REST and parking.moves["text_encoders"] == 0
    assert all(a is b for a, b in zip(weights, family.text_encoders["text_encoder"].parameters(), strict=True))
    monkeypatch.undo()
    family.encode()
    assert family.seen == [ENCODING]


def test_an_error_inside_leaves_everything_at_rest():
    family, parking = made()
    with pytest.raises(KeyError), parking.using("vae"):
        raise KeyError
    assert family.where() == REST


@pytest.mark.parametrize("part", ["text_encoders", "vae"])
def test_what_is_trained_stays_on_the_device(part):
    family, parking = made(part)
    on = ENCODING if part == "text_encoders" else DECODING
    assert family.where() == on
    family.encode()
    family.decode()
    assert family.where() == on
    assert set(parking.at_rest()) == {"text_encoders", "vae"} - {part}
    assert parking.moves[part] == 0


def test_on_a_cpu_nothing_moves():
    family, parking = made(device=torch.device("cpu"))
    family.encode()
    family.decode()
    assert not parking.moves


# ---------------------------------------------------------------- a real pipeline


def build(**model: Any) -> Any:
    from mmrl.modalities.image.adapter import ImageAdapter

    sizes = {"layers": 1, "heads": 2, "head_dim": 16, "text_width": 16, "latent_channels": 4, "vae_widths": [8, 8]}
    options = {"path": "built", "family": "sd3", "build": {**sizes, "grid": 4, "max_length": 16, "corpus": ["a dot"]}}
    torch.manual_seed(0)
    config = ImageAdapter.Config(**options, sampling={"steps": 2, "size": 8}, decode_batch=2, **model)
    return ImageAdapter(config)


def test_a_rollout_brings_the_encoders_once_and_the_autoencoder_for_each_batch():
    """Two prompts and the unconditional one are not kept yet; 4 pictures are decoded 2 by 2."""
    from mmrl.types import Group, Prompt

    found = {}
    for park in (False, True):
        policy = build(park=park)
        if park:
            for name in ("text_encoders", "vae"):
                policy._parking._parked[name] = Parked(name, [nn.Identity()], META)
        groups = [Group(Prompt(str(i), f"dot {i}", {}), i) for i in range(2)]
        rollouts = [policy.rollout(groups, 2, step, 0) for step in range(2)]
        found[park] = [s.trajectory.logp for groups in rollouts for group in groups for s in group.samples]
        if park:
            assert policy._parking.moves == {"text_encoders": 1, "vae": 4}
    assert all(torch.equal(a, b) for a, b in zip(found[False], found[True], strict=True))


def test_a_plan_says_what_is_where_and_counts_no_more_than_is_there_at_a_time():
    config = load("image/tiny").model
    assert any("always (park: false)" in line for line in config.describe())
    parked = config.model_copy(update={"park": True})
    assert any("text encoders while prompts are encoded" in line for line in parked.describe())
    policy = build(park=True)
    at_rest: list[Tensor] = [tensor for part in policy.parked().values() for tensor in part]
    assert {id(t) for t in at_rest} < {id(t) for t in policy.weights()}
    assert len(policy.parked()) == 2 and not any(t.requires_grad for t in at_rest)
    assert build().parked() == {}


def test_recurrent_layers_keep_no_copy_of_weights_that_rest():
    """They have a list of their weights beside those that every module has."""
    lstm = nn.LSTM(2, 3)
    parked = Parked("sound model", [lstm], META)
    parked.rest()
    with parked.using():
        assert lstm(torch.zeros(4, 1, 2, device=META))[0].device == META
    assert {weight.device.type for weight in lstm._flat_weights} == {"cpu"}
    assert lstm(torch.zeros(4, 1, 2))[0].shape == (4, 1, 3)
