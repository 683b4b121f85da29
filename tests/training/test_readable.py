"""Given data whose pictures break when they are decoded: what is left is the same on every process."""

from __future__ import annotations

import pytest
from answers import ranks
from PIL import Image

from mmrl.config import DataConfig
from mmrl.training.stages import readable
from mmrl.training.stages.readable import Readable
from mmrl.types import Prompt


@pytest.fixture
def pairs(tmp_path):
    """Five of which numbers 1 and 2, one a process of two, show a picture that is none."""
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    names = ("good.png", "bad.png", "bad.png", "good.png", None)
    return [Prompt(str(i), "x", {"images": [name]} if name else {}, str(tmp_path)) for i, name in enumerate(names)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:record .* it is left out")
def test_every_process_leaves_out_the_same_and_decodes_its_share_once(pairs, world, monkeypatch):
    decoded = []
    whole = readable.decode_images

    def decode(record, *rest):
        decoded.append(record)
        whole(record, *rest)

    monkeypatch.setattr(readable, "decode_images", decode)

    def work(processes):
        look = Readable(processes, DataConfig(on_bad_record="skip"), lambda pair: pair, lambda prompt: None)
        return [[p.id for p in look.of(pairs)] for _ in range(2)]

    assert ranks(work, world) == [[["0", "3", "4"]] * 2] * world
    assert len(decoded) == 4
