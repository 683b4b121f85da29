"""Make the sprites and photographs beside this file from the packages that hold the originals.

npm pack emoji-datasource-google@16.0.0
pip download --no-deps scikit-image==0.26.0
python datasets/emoji_scenes/build.py emoji-datasource-google-16.0.0.tgz scikit_image-0.26.0-*.whl
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
CELL, COLUMNS = 64, 4
# Sixteen emoji that a small picture still tells apart, their names with first letters of their own.
KINDS = {
    "apple": "1f34e",
    "bus": "1f68c",
    "cat": "1f431",
    "dog": "1f436",
    "fish": "1f41f",
    "grapes": "1f347",
    "house": "1f3e0",
    "key": "1f511",
    "mushroom": "1f344",
    "owl": "1f989",
    "pig": "1f437",
    "rose": "1f339",
    "star": "2b50",
    "turtle": "1f422",
    "umbrella": "2602-fe0f",
    "whale": "1f433",
}
PHOTOS = ("astronaut.png", "brick.png", "coffee.png", "gravel.png", "hubble_deep_field.jpg", "rocket.jpg")
PHOTO_SIZE = (240, 208)


def sprites(package: Path) -> tuple[Image.Image, dict]:
    """(atlas, {name: (left, top, right, bottom) of the drawn part in it})."""
    rows = -(-len(KINDS) // COLUMNS)
    atlas, boxes = Image.new("RGBA", (COLUMNS * CELL, rows * CELL)), {}
    with tarfile.open(package) as archive:
        for number, (name, code) in enumerate(KINDS.items()):
            file = archive.extractfile(f"package/img/google/64/{code}.png")
            assert file is not None
            emoji = Image.open(io.BytesIO(file.read())).convert("RGBA")
            assert emoji.size == (CELL, CELL), name
            left, top = number % COLUMNS * CELL, number // COLUMNS * CELL
            atlas.paste(emoji, (left, top))
            drawn = emoji.getchannel("A").point(lambda a: 255 * (a > 32)).getbbox()
            boxes[name] = [left + drawn[0], top + drawn[1], left + drawn[2], top + drawn[3]]
    return atlas.quantize(255, method=Image.Quantize.FASTOCTREE), boxes


def photos(package: Path) -> dict[str, Image.Image]:
    """Name -> the photograph, cut and scaled to PHOTO_SIZE."""
    with zipfile.ZipFile(package) as archive:
        pictures = {Path(n).stem: Image.open(io.BytesIO(archive.read(f"skimage/data/{n}"))) for n in PHOTOS}
        return {n: ImageOps.fit(p.convert("RGB"), PHOTO_SIZE, Image.Resampling.LANCZOS) for n, p in pictures.items()}


def main(emoji_package: Path, photo_package: Path) -> None:
    atlas, boxes = sprites(emoji_package)
    atlas.save(HERE / "sprites.png", optimize=True)
    text = ",\n".join(f"  {json.dumps(name)}: {json.dumps(box)}" for name, box in boxes.items())
    (HERE / "sprites.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
    (HERE / "photos").mkdir(exist_ok=True)
    for name, photo in photos(photo_package).items():
        photo.save(HERE / "photos" / f"{name}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
