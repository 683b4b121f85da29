"""Two rows of each published format of pairs, made by hand from its schema, and what they say, worked out by hand."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image


@functools.cache
def jpeg(shade: int) -> bytes:
    """A picture of one pixel whose shade is known."""
    held = io.BytesIO()
    Image.new("RGB", (1, 1), (shade, shade, shade)).save(held, "PNG")
    return held.getvalue()


@dataclass(frozen=True)
class Said:
    """What a row says. images, and those of candidates: names, or shades of pictures that the table holds."""

    prompt: str
    candidates: list[Any]  # texts, or lists of pictures
    shares: tuple[float, ...]
    images: list[Any] = field(default_factory=list)
    category: str = ""
    unit: str = ""
    confidence: float | None = None
    id: str = ""  # "": its number


def judged(question: str, first: str, second: str, picture: str, in_front: bool = True) -> str:
    """A message as R1-Reward's script writes it."""
    text = (
        "You compare two responses. Reason in <think>, then write 1 or 2.\n\n"
        "###### **Input:**  \n"
        f"###### [Question]:\n{question}  \n\n###### [Response 1]:\n{first}  \n\n###### [Response 2]:\n{second}  \n\n"
        "###### **Output Format (strictly follow):**  \n<think>analysis</think><answer>1/2</answer>"
    )
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    return json.dumps([{"role": "user", "content": parts if in_front else parts[::-1]}])


def vl_line(name: str) -> dict[str, Any]:
    told = {"chosen_reason": "", "rejected_reason": ""}
    return {"id": name, "prompt": "What?", "chosen": "a cat", "rejected": "a dog", "image": "img/1.png", **told}


def mm_line(name: str, rejected: str, **shown: str) -> dict[str, Any]:
    return vl_line(name) | {"rejected": rejected, "image": None} | shown


CASES: dict[str, tuple[str, str, list[dict[str, Any]], list[Said]]] = {
    "r1_reward.json": (
        "r1_reward",
        ".json",
        [
            {
                "message": judged("Which?", "left", "right", "img/1.png"),
                "question": "Which?",
                "answer": ["<answer>1</answer>"],
            },
            {
                "message": judged(
                    "How\nmany?", "# Count\n### Response 2\ntwo", "###### Output\none", "img/2.png", False
                ),
                "question": "How many?",
                "answer": ["<answer> 2 </answer>"],
            },
        ],
        [
            Said("Which?", ["left", "right"], (1, 0), ["img/1.png"]),
            Said("How\nmany?", ["# Count\n### Response 2\ntwo", "###### Output\none"], (0, 1), ["img/2.png"]),
        ],
    ),
    "vl_rewardbench.parquet": (
        "vl_rewardbench",
        ".parquet",
        [
            {
                "id": "RLAIF-V-12",
                "query": "What?",
                "response": ["a cat", "a dog"],
                "human_ranking": [0, 1],
                "image": {"bytes": jpeg(10), "path": "x.jpg"},
                "models": ["m", "n"],
                "judge": ["j"],
                "rationale": ["r"],
                "query_source": "q",
            },
            {
                "id": "mathverse_7",
                "query": "Sum?",
                "response": ["3", "4"],
                "human_ranking": [1, 0],
                "image": {"bytes": jpeg(20), "path": "y.jpg"},
                "models": ["m", "n"],
                "judge": ["j"],
                "rationale": ["r"],
                "query_source": "q",
            },
        ],
        [
            Said("What?", ["a cat", "a dog"], (1, 0), [10], "hallucination"),
            Said("Sum?", ["3", "4"], (0, 1), [20], "reasoning"),
        ],
    ),
    "vl_rewardbench.jsonl": (
        "vl_rewardbench",
        ".jsonl",
        [vl_line("wildvision-3"), vl_line("wildvision-3") | {"rejected": "a cow"}],
        [
            Said("What?", ["a cat", "a dog"], (1, 0), ["img/1.png"], "general"),
            Said("What?", ["a cat", "a cow"], (1, 0), ["img/1.png"], "general"),
        ],
    ),
    "mm_rlhf.jsonl": (
        "mm_rlhf",
        ".jsonl",
        [mm_line("q_1", "a dog", image="long/1.png"), mm_line("q_1", "a cow", video="video/walk")],
        [
            Said("What?", ["a cat", "a dog"], (1, 0), ["long/1.png"], "long", "q_1"),
            Said("What?", ["a cat", "a cow"], (1, 0), ["video/walk/1.png", "video/walk/2.png"], "video", "q_1"),
        ],
    ),
    "multimodal_rewardbench.json": (
        "multimodal_rewardbench",
        ".json",
        [
            {
                "ID": "PairS_4",
                "Text": "Who?",
                "Image": "img/1.png",
                "Output1": "he",
                "Output2": "they",
                "Better": "Output2",
                "Category": "safety",
            },
            {
                "ID": "emma-coding-2",
                "Text": "Which code?",
                "Image": "img/2.png",
                "Output1": "a",
                "Output2": "",
                "Better": "Output1",
                "Category": "reasoning",
            },
        ],
        [
            Said("Who?", ["he", "they"], (0, 1), ["img/1.png"], "safety/bias"),
            Said("Which code?", ["a", ""], (1, 0), ["img/2.png"], "reasoning/coding"),
        ],
    ),
    "rewardbench.parquet": (
        "rewardbench",
        ".parquet",
        [
            {
                "prompt": "hi",
                "chosen": "hello",
                "rejected": "bye",
                "subset": "math-prm",
                "chosen_model": "human",
                "rejected_model": "m",
                "id": 5,
            },
            {
                "prompt": "ho",
                "chosen": "yes",
                "rejected": "no",
                "subset": "mt-bench-hard",
                "chosen_model": "human",
                "rejected_model": "m",
                "id": 5,
            },
        ],
        [
            Said("hi", ["hello", "bye"], (1, 0), category="math-prm"),
            Said("ho", ["yes", "no"], (1, 0), category="mt-bench-hard"),
        ],
    ),
    "rewardbench2.parquet": (
        "rewardbench2",
        ".parquet",
        [
            {
                "id": "31",
                "prompt": "Name one.",
                "chosen": ["a"],
                "rejected": ["b", "c", "b"],
                "num_correct": 1,
                "num_incorrect": 3,
                "total_completions": 4,
                "models": ["m"],
                "subset": "Factuality",
            },
            {
                "id": "tied:4",
                "prompt": "A colour?",
                "chosen": ["red", "blue"],
                "rejected": ["dog"],
                "num_correct": 2,
                "num_incorrect": 1,
                "total_completions": 3,
                "models": ["m"],
                "subset": "Ties",
            },
        ],
        [
            Said("Name one.", ["a", "b", "c", "b"], (1, 0, 0, 0), category="Factuality"),
            Said("A colour?", ["red", "blue", "dog"], (0.5, 0.5, 0), category="Ties", unit="4", id="tied:4"),
        ],
    ),
    "pickapic.parquet": (
        "pickapic",
        ".parquet",
        [
            {
                "caption": "a red dot",
                "jpg_0": jpeg(30),
                "jpg_1": jpeg(40),
                "label_0": 0.0,
                "label_1": 1.0,
                "has_label": True,
                "are_different": True,
                "image_0_uid": "u",
                "image_1_uid": "v",
                "num_example_per_prompt": 3,
            },
            {
                "caption": "a dot",
                "jpg_0": jpeg(50),
                "jpg_1": jpeg(60),
                "label_0": 0.5,
                "label_1": 0.5,
                "has_label": True,
                "are_different": True,
                "image_0_uid": "u",
                "image_1_uid": "v",
                "num_example_per_prompt": 3,
            },
        ],
        [Said("a red dot", [[30], [40]], (0, 1)), Said("a dot", [[50], [60]], (0.5, 0.5))],
    ),
    "hpdv3.json": (
        "hpdv3",
        ".json",
        [
            {"prompt": "a dot", "path1": "img/1.png", "path2": "img/2.png", "choice_dist": [4, 12], "confidence": 0.97},
            {"prompt": "a line", "path1": "img/2.png", "path2": "img/1.png", "choice_dist": None, "confidence": "null"},
        ],
        [
            Said("a dot", [["img/1.png"], ["img/2.png"]], (0.75, 0.25), confidence=0.97),
            Said("a line", [["img/2.png"], ["img/1.png"]], (1, 0)),
        ],
    ),
    "editreward.json": (
        "hpdv3",
        ".json",
        [
            {
                "prompt": "add a hat",
                "path_src": "long/1.png",
                "path1": "img/1.png",
                "path2": "img/2.png",
                "tie_case": True,
            },
            {
                "prompt": "add a cat",
                "path_src": "long/1.png",
                "path1": "img/2.png",
                "path2": "img/1.png",
                "tie_case": False,
            },
        ],
        [
            Said("add a hat", [["img/1.png"], ["img/2.png"]], (0.5, 0.5), ["long/1.png"]),
            Said("add a cat", [["img/2.png"], ["img/1.png"]], (1, 0), ["long/1.png"]),
        ],
    ),
    "editreward_bench.parquet": (
        "editreward_bench",
        ".parquet",
        [
            {
                "key": ["a", "b"],
                "instruction": "add a hat",
                "input_image": {"bytes": jpeg(70), "path": None},
                "output_images": [{"bytes": jpeg(80), "path": None}, {"bytes": jpeg(90), "path": None}],
                "task_type": "subject-add",
                "dimension": dimension,
            }
            for dimension in ("overall", "consistency")
        ],
        [Said("add a hat", [[80], [90]], (1, 0), [70], f"{name}/subject-add") for name in ("overall", "consistency")],
    ),
    "consistency_rank.jsonl": (
        "consistency_rank",
        ".jsonl",
        [
            {
                "folder": "7",
                "ref_image": "r.png",
                "comp_images": ["a.png", "b.png", "c.png"],
                "rank_images": ["c.png", "a.png", "b.png"],
            },
            {
                "folder": "7",
                "ref_image": "a.png",
                "comp_images": ["b.png", "c.png"],
                "rank_images": ["b.png", "c.png"],
                "prompt": "Alike?",
            },
        ],
        [
            Said(
                "Which picture agrees best with this one in style, logic and identity?",
                [["images/7/a.png"], ["images/7/b.png"], ["images/7/c.png"]],
                (1 / 3, 0, 2 / 3),
                ["images/7/r.png"],
            ),
            Said("Alike?", [["images/7/b.png"], ["images/7/c.png"]], (1, 0), ["images/7/a.png"]),
        ],
    ),
}


def written(rows: list[Any], path: Path) -> str:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = (json.dumps(row) for row in rows)
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(lines), encoding="utf-8")
    return str(path)
