"""Films in the report: a strip of frames, and by name what is none."""

from __future__ import annotations

from PIL import Image

from mmrl.media import Clip
from mmrl.reporting.cards import CardMaker
from mmrl.reporting.folder import RunFolder
from mmrl.reporting.records import readable_index
from mmrl.reporting.sample_index import read_index
from mmrl.reporting.samples import write_step
from mmrl.types import Group, Prompt, Sample


def test_a_stored_picture_that_is_no_film_is_named_in_the_report(tmp_path):
    film = Clip(tuple(Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 100)))
    prompt = Prompt("p", "x")
    write_step(tmp_path, "eval_before", [Group(prompt, 0, [Sample(prompt, i, film) for i in range(2)])])
    Image.new("RGB", (4, 4)).save(tmp_path / "samples" / "eval_before" / "0000_000.film.png")
    maker = CardMaker(RunFolder(tmp_path), 10**6)
    records = readable_index(read_index(tmp_path, "eval_before"), "index.json", [])["groups"][0]["samples"]
    broken, whole = (maker.card("eval_before", record) for record in records)
    assert "is no film" in broken.note and not broken.picture
    assert whole.size == "2 frames of 8 × 8"
    assert whole.film and whole.small and whole.picture.startswith("data:image/png")
