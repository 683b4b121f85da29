import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmrl.media import Clip
from mmrl.reporting import artifacts
from mmrl.reporting.artifacts import load_artifact, register_artifact, save_artifact, sheet_of


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_a_picture_comes_back_pixel_for_pixel(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    picture = Image.fromarray(noise, "RGBA").convert(mode)
    name = save_artifact(picture, tmp_path, "0001")
    again = load_artifact(tmp_path / name)
    assert name == "0001.png"
    assert (again.mode, again.size) == (mode, (5, 7))
    assert again.tobytes() == picture.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("frames", [1, 5, 9, 10, 81])
def test_a_film_comes_back_frame_for_frame(tmp_path, frames, mode):
    """Its frames stand side by side in one picture, nine in a row."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 7, 5, 4), dtype=np.uint8)
    film = Clip(tuple(Image.fromarray(frame, "RGBA").convert(mode) for frame in noise))
    name = save_artifact(film, tmp_path, "0001")
    again = load_artifact(tmp_path / name)
    assert name == "0001.film.png" and again.frames[0].mode == mode
    np.testing.assert_array_equal(np.asarray(again), np.asarray(film))
    with Image.open(tmp_path / name) as sheet:
        assert sheet.size == (5 * min(frames, 9), 7 * (1 + (frames - 1) // 9))


def test_frames_side_by_side_may_have_a_gap():
    frames = [Image.new("RGB", (3, 2), (shade, 0, 0)) for shade in range(11)]
    sheet = np.asarray(sheet_of(frames, gap=1))
    assert sheet.shape == (2 + 1 + 2, 9 * 3 + 8, 3)
    assert sheet[0, 4, 0] == 1 and sheet[3, 4, 0] == 10 and (sheet[:, 3] == 255).all() and (sheet[2] == 255).all()


def test_a_film_of_palettes_and_a_picture_that_is_no_film_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"s\.film\.png: a film of P frames.*RGB"):
        save_artifact(Clip((Image.new("P", (2, 2)),)), tmp_path, "s")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.film.png")
    with pytest.raises(ValueError, match="is no film"):
        load_artifact(tmp_path / "a.film.png")


def test_a_picture_that_png_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"s\.png.*CMYK.*convert"):
        save_artifact(Image.new("CMYK", (2, 2)), tmp_path, "s")


@given(text=st.text(st.characters(codec=None)))
def test_any_text_comes_back(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("text")
    assert load_artifact(folder / save_artifact(text, folder, "t")) == text


def test_arrays_keep_type_shape_and_nan(tmp_path):
    array = np.array([[1.5, np.nan, -np.inf]], dtype=np.float32)
    again = load_artifact(tmp_path / save_artifact(array, tmp_path, "a"))
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, array)


def test_no_pickle_on_the_way_out_or_in(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        save_artifact(np.array([{}]), tmp_path, "a")
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}]), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_artifact(tmp_path / "b.npy")


def test_unknown_types_and_suffixes_name_what_is_known(tmp_path):
    with pytest.raises(TypeError, match=r"set.*Clip, Image, Solid, ndarray, str.*register_artifact"):
        save_artifact({1}, tmp_path, "x")
    with pytest.raises(ValueError, match=r"\.pkl.*\.film\.png, \.npy, \.png, \.solid\.json, \.txt"):
        load_artifact(tmp_path / "x.pkl")


def test_a_registered_type_joins(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_types", list(artifacts._types))
    register_artifact(bytes, ".bin", lambda data, path: path.write_bytes(data), lambda path: path.read_bytes())
    assert load_artifact(tmp_path / save_artifact(b"\0\1", tmp_path, "x")) == b"\0\1"
    with pytest.raises(ValueError, match=r"\.txt.*already belongs to str"):
        register_artifact(bytes, ".txt", lambda data, path: None, lambda path: b"")
    with pytest.raises(ValueError, match="start with a dot"):
        register_artifact(bytes, "raw", lambda data, path: None, lambda path: b"")
