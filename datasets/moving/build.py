"""Write prompts.jsonl and captions.txt beside this file: `python datasets/moving/build.py`."""

import json
from pathlib import Path

from moving import all_films

if __name__ == "__main__":
    here = Path(__file__).parent
    films = list(all_films())
    (here / "prompts.jsonl").write_text("".join(json.dumps(film) + "\n" for film in films), encoding="utf-8")
    (here / "captions.txt").write_text("".join(film["prompt"] + "\n" for film in films), encoding="utf-8")
    print(f"{len(films)} films")
