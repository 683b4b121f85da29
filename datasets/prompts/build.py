"""Writes the prompt files of this folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Subjects and treatments are paired by their order, so that 80 prompts stay 80 different pictures.
SUBJECTS = [
    "an old lighthouse on a cliff",
    "a ginger cat asleep on a stack of books",
    "a market street after rain",
    "two children building a sandcastle",
    "a glass teapot with mint leaves",
    "a wooden boat on a still lake",
    "a violin on a velvet chair",
    "a fox crossing a snowy field",
    "a lemon tree in a courtyard",
    "an astronaut repairing a satellite",
    "a baker lifting bread from the oven",
    "a row of painted front doors",
    "a stag in morning fog",
    "a chess game on a park bench",
    "a greenhouse full of ferns",
    "a blue bicycle against a brick wall",
    "a heron standing in reeds",
    "a paper lantern floating at night",
    "a mountain hut under stars",
    "an elderly man with a grey beard",
    "a bowl of ripe cherries",
    "a spiral staircase seen from above",
    "a hot-air balloon over vineyards",
    "a dancer in a red dress",
    "a rusty tractor in tall grass",
    "an owl on a fence post",
    "a train crossing a stone bridge",
    "a desk with a typewriter and a lamp",
    "a waterfall in a mossy gorge",
    "a woman reading by a window",
]
TREATMENTS = [
    "a photograph at golden hour",
    "a watercolour with loose edges",
    "an oil painting with thick strokes",
    "a pencil drawing with fine hatching",
    "a close-up with a shallow depth of field",
    "a wide view under a stormy sky",
    "a woodcut print in two colours",
    "a soft pastel illustration",
]

CARRIERS = [
    "a shop window with the words {} painted in gold",
    "a road sign that reads {} beside a country lane",
    "a coffee cup printed with {}",
    "a neon sign saying {} in a dark alley",
    "a chalkboard with {} written on it",
    "a book whose cover says {}",
    "a birthday cake with {} in icing",
    "a poster that says {} on a brick wall",
    "a wooden board with {} carved into it",
    "a T-shirt that reads {}",
]
TEXTS = [
    "Open Late",
    "Fresh Bread",
    "Turn Left",
    "Good Morning",
    "Quiet Please",
    "River Walk",
    "Hello World",
    "Room 42",
    "Mind the Gap",
    "Blue Door",
    "Try Again",
    "Night Train",
    "Wet Paint",
    "Second Hand",
    "Tea for Two",
    "North Gate",
    "No Hurry",
    "Happy Ten",
    "Last Stop",
    "Free Air",
    "Silver Lake",
    "Just Married",
    "Garden Club",
    "Hot Soup",
]

ANIMALS = [
    "badger",
    "bat",
    "bear",
    "bee",
    "beetle",
    "bison",
    "buffalo",
    "butterfly",
    "camel",
    "carp",
    "cat",
    "chicken",
    "cow",
    "crab",
    "crow",
    "deer",
    "dog",
    "dolphin",
    "donkey",
    "duck",
    "eagle",
    "eel",
    "elephant",
    "fox",
    "frog",
    "goat",
    "goose",
    "hamster",
    "hedgehog",
    "horse",
    "koala",
    "lizard",
    "lynx",
    "mole",
    "moth",
    "otter",
    "owl",
    "panda",
    "pelican",
    "rabbit",
    "salmon",
    "seal",
    "sheep",
    "squirrel",
    "wolf",
]

# Of the photographs in emoji_scenes/photos: what is in each, and what is done to it.
EDITS = {
    "astronaut": [
        "give her a red scarf",
        "replace the flag by a green curtain",
        "make the suit silver",
        "let her wear sunglasses",
        "put a small owl on her shoulder",
        "remove the model of the shuttle",
    ],
    "brick": [
        "paint the wall white",
        "add a blue door in the middle",
        "let ivy grow over the left half",
        "write the word OPEN on it in chalk",
        "hang a round clock on it",
        "turn the bricks into grey stones",
    ],
    "coffee": [
        "replace the coffee by green tea",
        "put a croissant beside the cup",
        "make the cup yellow",
        "draw a heart in the foam",
        "let steam rise from the cup",
        "put the cup on a wooden tray",
    ],
    "gravel": [
        "lay a yellow leaf on the stones",
        "let a beetle walk over it",
        "cover the lower half with snow",
        "make all the stones blue",
        "put a bottle cap in the centre",
        "let grass grow between the stones",
    ],
    "hubble_deep_field": [
        "add a small spaceship on the right",
        "make the sky dark green",
        "put a large planet with rings in the centre",
        "remove all but the brightest galaxies",
        "let a comet cross from left to right",
        "make the largest galaxy pink",
    ],
    "rocket": [
        "paint the rocket red",
        "make it night, with stars",
        "replace the rocket by a pencil",
        "add a full moon behind it",
        "let birds fly past it",
        "turn the smoke blue",
    ],
}
REDRAWN = [
    "turn it into a watercolour with loose edges",
    "turn it into a pencil drawing",
    "turn it into a mosaic of small tiles",
    "make it a photograph at golden hour",
    "make it a woodcut print in two colours",
    "make it look like an old postcard",
]


def pictures() -> list[str]:
    return [
        f"{SUBJECTS[i % len(SUBJECTS)]}, {TREATMENTS[(i + i // len(SUBJECTS)) % len(TREATMENTS)]}" for i in range(80)
    ]


def signs() -> list[str]:
    return [CARRIERS[i % len(CARRIERS)].format(f'"{TEXTS[i % len(TEXTS)]}"') for i in range(80)]


def animals() -> list[str]:
    return [f"an {name}" if name[0] in "aeiou" else f"a {name}" for name in ANIMALS]


def edits() -> list[dict[str, object]]:
    """In rounds over the photographs, so that every fifth is of each of them in turn."""
    return [
        {"prompt": sentences[i], "images": [f"{photo}.jpg"]}
        for i in range(len(EDITS["coffee"]) + len(REDRAWN))
        for photo, own in EDITS.items()
        for sentences in [[*own, *REDRAWN]]
    ]


def write(name: str, prompts: Sequence[str | dict[str, object]]) -> None:
    """One record a line; every fifth prompt is held out."""
    records = [{"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts]
    assert len({str(record) for record in records}) == len(records), name
    rows = [
        {"id": f"{name}-{i:02d}", **record, "split": "heldout" if i % 5 == 4 else "train"}
        for i, record in enumerate(records)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write("pictures", pictures())
    write("signs", signs())
    write("edits", edits())
    (HERE / "animals.txt").write_text("\n".join(animals()) + "\n", encoding="utf-8")
