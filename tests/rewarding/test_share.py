from pathlib import Path

import pytest

import mmrl.share
from mmrl.share import resolve, share

ROOT = Path(mmrl.__file__).resolve().parents[1]


def test_a_checkout_is_its_own_share_folder():
    assert share("rewards", "composition.py") == ROOT / "rewards" / "composition.py"
    assert resolve("share://datasets/scenes") == ROOT / "datasets" / "scenes"


def test_a_wheel_carries_its_share_folder(tmp_path, monkeypatch):
    (tmp_path / "mmrl" / "_share" / "configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()  # of another project, beside the package
    monkeypatch.setattr(mmrl.share, "_PACKAGE", tmp_path / "mmrl")
    assert resolve("share://configs/image/tiny.yaml") == tmp_path / "mmrl/_share/configs/image/tiny.yaml"


def test_other_paths_stay_what_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("some/where.yaml") == Path("some/where.yaml")
    assert resolve("/abs/x") == Path("/abs/x")
    assert resolve("~/x") == tmp_path / "x"


@pytest.mark.parametrize("uri", ["share://../secret", "share:///etc/passwd", "share://assets/../../x"])
def test_the_share_folder_is_not_left(uri):
    with pytest.raises(ValueError, match="leaves the share folder"):
        resolve(uri)
