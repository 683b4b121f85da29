"""Write prompts.jsonl (every scene with its split) beside this file: `python datasets/scenes/build.py`."""

import json
from pathlib import Path

from scenes import all_scenes

if __name__ == "__main__":
    here = Path(__file__).parent
    lines = [json.dumps(scene) for scene in all_scenes()]
    (here / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (here / "captions.txt").write_text("\n".join(s["prompt"] for s in all_scenes()) + "\n", encoding="utf-8")
    print(f"{len(lines)} scenes")
