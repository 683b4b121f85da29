"""Pictures as users have them: every mode and orientation comes out the same, everything unfit is told by name."""

from __future__ import annotations

import functools
import io
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from every import every
from PIL import Image

from mmrl.pictures import PictureError, check_image, image_size, open_image

BOUND = 10_000
RED, BLUE = (250, 10, 10), (10, 10, 250)


@pytest.fixture
def flag() -> Image.Image:
    """Three wide, two high; red on the left, blue in its upper right corner."""
    picture = Image.new("RGB", (3, 2), RED)
    picture.putpixel((2, 0), BLUE)
    return picture


def encoded(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(ref, root=None, bound: int = BOUND) -> np.ndarray:
    picture = open_image(ref, root, bound)
    assert picture.mode == "RGB"
    assert image_size(ref, root, bound) == picture.size
    return np.asarray(picture)


# -------------------------------------------------------------------- ways to name one


def test_every_way_to_name_a_picture_gives_the_same(flag, tmp_path):
    (tmp_path / "sub").mkdir()
    flag.save(tmp_path / "sub" / "flag.png")
    ways = [
        "sub/flag.png",
        str(tmp_path / "sub" / "flag.png"),
        flag,
        {"bytes": encoded(flag), "path": None},
        {"bytes": None, "path": "sub/flag.png"},
        lambda: flag,
        functools.partial(open_image, "sub/flag.png", tmp_path, BOUND),
        lambda: "sub/flag.png",
    ]
    for way in ways:
        assert np.array_equal(pixels(way, tmp_path), np.asarray(flag))
    assert flag.size == (3, 2)  # a picture that is given stays open


def test_files_that_ship_are_named_from_anywhere():
    picture = open_image("share://datasets/emoji_scenes/photos/coffee.jpg", None, 1_000_000)
    assert picture.size == (240, 208)


@pytest.mark.parametrize("name", ["../flag.png", "/etc/flag.png", "sub/../../flag.png"])
def test_a_file_outside_the_folder_is_refused(flag, tmp_path, name):
    flag.save(tmp_path / "flag.png")
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    with pytest.raises(PictureError, match="must be a file below"):
        open_image(name, inside, BOUND)


def test_a_link_that_leads_outside_is_refused(flag, tmp_path):
    flag.save(tmp_path / "flag.png")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.png").symlink_to(tmp_path / "flag.png")
    with pytest.raises(PictureError, match="must be a file below"):
        open_image("link.png", tmp_path / "inside", BOUND)


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("https://example.org/cat.png", "URLs are not opened"),
        ("file:///etc/hosts", "URLs are not opened"),
        ("data:image/png;base64,iVBORw0KGgo", "URLs are not opened"),
        ("share://../../secret.png", "leaves the share folder"),
        ("missing.png", "'missing.png': no such file"),
        (".", "'.': no such file: it is a folder"),
        ("pipe.png", "'pipe.png': no such file: it is a pipe"),
        ("loop.png", "'loop.png': cannot be read: .*[Ll]oop"),
        ("nul\0.png", "cannot be read: embedded null byte"),
        ("share://nul\0.png", "null byte"),
        ("text.png", "'text.png': cannot be read: it is no picture"),
        ("empty.png", "'empty.png': cannot be read"),
        ("half.png", "'half.png': cannot be read"),
        ("half.jpg", "'half.jpg': cannot be read"),
        ("vector.eps", "'vector.eps': cannot be read"),
        ("x" * 500 + ".png", "xxx...': cannot be read|xxx...': no such file"),
        ({"bytes": b"GIF89a"}, "picture of the table: cannot be read"),
        ({"bytes": None, "path": None}, "expected a file name or a picture, got dict"),
        (3, "expected a file name or a picture, got int"),
        (None, "got NoneType"),
        (["a.png"], "got list"),
        (lambda: 1 / 0, "failed: ZeroDivisionError: division by zero"),
        (lambda: None, "got NoneType"),
        (lambda: len, "returned a function"),
    ],
)
def test_what_is_no_picture_is_told(flag, tmp_path, ref, told):
    noise = Image.effect_noise((64, 64), 90)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(encoded(noise)[:900])
    (tmp_path / "half.jpg").write_bytes(encoded(noise, "JPEG")[:700])
    (tmp_path / "vector.eps").write_bytes(encoded(flag, "EPS"))
    with pytest.raises(PictureError, match=told) as caught:
        open_image(ref, tmp_path, BOUND)
    assert len(str(caught.value)) < 500
    if callable(ref):
        check_image(ref, tmp_path, BOUND)  # nothing is drawn for a check
        return
    with pytest.raises(PictureError, match=told) as checked:
        check_image(ref, tmp_path, BOUND)
    assert str(checked.value) == str(caught.value)


def test_names_need_a_folder():
    with pytest.raises(PictureError, match=r"nothing says which folder it is in; set data\.image_root"):
        open_image("flag.png", None, BOUND)


# -------------------------------------------------------------------- sizes


def bomb(side: int) -> bytes:
    """A valid PNG of side x side white pixels: a few kilobytes that decode to side² bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" + b"\xff" * side) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb(6000))
    tracemalloc.start()
    for look in (open_image, check_image, image_size):
        with pytest.raises(PictureError, match=r"'bomb\.png': 6000x6000 is over data\.max_pixels=10000"):
            look("bomb.png", tmp_path, BOUND)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # of 36 million
    with pytest.raises(PictureError, match="20000x1 is over"):
        open_image(Image.new("1", (20_000, 1)), None, BOUND)


def test_the_bound_holds_exactly(flag):
    assert open_image(flag, None, 6).size == (3, 2)
    with pytest.raises(PictureError, match=r"3x2 is over data\.max_pixels=5"):
        open_image(flag, None, 5)
    with pytest.raises(PictureError, match="is over"):
        image_size(flag, None, 5)


@every("size", [(1, 1), (1, 300), (300, 1)])
def test_one_pixel_is_a_picture(size):
    assert pixels({"bytes": encoded(Image.new("L", size, 7))}).shape == (size[1], size[0], 3)


# -------------------------------------------------------------------- modes


@every(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("P", 0, (0, 0, 0)),
        ("RGB", RED, RED),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),  # a fifth of black over white
        ("LA", (0, 51), (204, 204, 204)),
        ("I;16", 0xC800, (200, 200, 200)),
        ("I", 0xC800, (200, 200, 200)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, expected):
    assert np.abs(pixels(Image.new(mode, (2, 3), colour)).astype(int) - expected).max() <= 1


@every("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_format_is_read(form):
    picture = Image.new("RGB", (8, 6), RED)
    assert np.abs(pixels({"bytes": encoded(picture, form)}).astype(int) - RED).max() <= 8


def test_cmyk_files_and_16_bit_files_are_read(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    assert np.abs(pixels("print.jpg", tmp_path).astype(int) - (255, 0, 0)).max() <= 4
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert (pixels("deep.png", tmp_path) == 128).all()


def test_transparent_palettes_become_white(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "palette.png", transparency=0)
    assert pixels("palette.png", tmp_path).tolist() == [[[255, 255, 255], list(BLUE)]]


def test_floats_are_told(tmp_path):
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tiff")
    with pytest.raises(PictureError, match=r"'float\.tiff': cannot be read: its pixels are floats"):
        open_image("float.tiff", tmp_path, BOUND)


# -------------------------------------------------------------------- frames and orientation


@pytest.mark.parametrize(("name", "form"), [("film.gif", "GIF"), ("film.webp", "WEBP"), ("pages.tiff", "TIFF")])
def test_of_several_frames_the_first_is_taken_with_a_warning(tmp_path, name, form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE, RED)]
    frames[0].save(tmp_path / name, form, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=f"'{name}': it has 3 frames, the first is taken"):
        found = open_image(name, tmp_path, BOUND)
    assert np.abs(np.asarray(found).astype(int) - RED).max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(flag, tmp_path, orientation):
    """The corner that is blue, by the table of the EXIF standard: row 0, column 0 of what is stored are which sides?"""
    exif = Image.Exif()
    exif[0x0112] = orientation
    flag.save(tmp_path / "photo.png", exif=exif)
    found = pixels("photo.png", tmp_path)
    # Stored: blue at the upper right. Value -> where that corner is when the picture is seen upright.
    corner = {
        1: (0, -1),
        2: (0, 0),
        3: (-1, 0),
        4: (-1, -1),
        5: (-1, 0),
        6: (-1, -1),
        7: (0, -1),
        8: (0, 0),
    }[orientation]
    assert found.shape == ((2, 3, 3) if orientation < 5 else (3, 2, 3))
    assert tuple(found[corner]) == BLUE
    assert (found == BLUE).all(-1).sum() == 1


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("orientation", [None, 1, 6])
def test_the_size_of_a_png_is_that_of_what_is_opened(flag, tmp_path, orientation, behind):
    """Its EXIF may stand before its pixels or behind them; a decoder that stops early would miss the latter."""
    whole = encoded(flag)
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        place = whole.index(b"IEND" if behind else b"IDAT") - 4
        whole = whole[:place] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + whole[place:]
    (tmp_path / "a.png").write_bytes(whole)
    wanted = (2, 3) if orientation == 6 else (3, 2)
    assert image_size("a.png", tmp_path, BOUND) == open_image("a.png", tmp_path, BOUND).size == wanted


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_the_size_is_read_from_the_head(flag, tmp_path, form, monkeypatch):
    """Of 100,000 pictures none is decoded before a run."""
    flag.save(tmp_path / "a.bin", form)
    with monkeypatch.context() as patch:
        for kind in {type(Image.open(tmp_path / "a.bin")), Image.Image}:
            patch.setattr(kind, "load", lambda self: pytest.fail("decoded"))
        assert image_size("a.bin", tmp_path, BOUND) == (3, 2)


def test_opening_leaves_no_file_open(flag, tmp_path):
    flag.save(tmp_path / "flag.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(3):
            open_image("flag.png", tmp_path, BOUND)
    assert isinstance(tmp_path, Path)
