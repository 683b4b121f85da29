import io

import numpy as np
import pytest
from PIL import Image

from mmrl.rewarding import load_reward


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_the_score_is_the_size_of_the_file_in_kilobytes(sample, tmp_path):
    picture = noise()
    picture.save(tmp_path / "a.jpg", quality=95)
    kilobytes = (tmp_path / "a.jpg").stat().st_size / 1000
    assert load_reward("jpeg.compressible").call([sample("x", picture)]) == pytest.approx([-kilobytes / 500])
    assert load_reward("jpeg.incompressible", {"scale": 1}).call([sample("x", picture)]) == pytest.approx([kilobytes])


def test_plain_pictures_are_compressible_and_busy_ones_are_not(sample):
    samples = [sample("x", Image.new("RGB", (64, 64), "white")), sample("x", noise())]
    plain, busy = load_reward("jpeg.compressible").call(samples)
    assert busy < plain < 0
    plain, busy = load_reward("jpeg.incompressible").call(samples)
    assert 0 < plain < busy


def test_lower_quality_is_smaller(sample):
    buffer = io.BytesIO()
    noise().save(buffer, format="JPEG", quality=10)
    [small] = load_reward("jpeg.incompressible", {"quality": 10, "scale": 1}).call([sample("x", noise())])
    [large] = load_reward("jpeg.incompressible", {"scale": 1}).call([sample("x", noise())])
    assert small == pytest.approx(len(buffer.getvalue()) / 1000)
    assert small < large


@pytest.mark.parametrize("name", ["jpeg.compressible", "jpeg.incompressible"])
def test_no_metadata_no_mode_and_no_transparency_changes_the_size(sample, name):
    plain = noise()
    heavy = noise()
    heavy.info.update(comment=b"x" * 60_000, exif=b"Exif\x00\x00" + b"x" * 60_000, icc_profile=b"x" * 60_000)
    clear = noise().convert("RGBA")
    clear.putalpha(0)
    scores = load_reward(name).call([sample("x", picture) for picture in (plain, heavy, clear)])
    assert len(set(scores)) == 1
