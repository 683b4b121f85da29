"""Lettering: are the texts that a prompt quotes written in its picture, in whatever script?

In the spirit of SIGIL (Choi et al. 2024, arXiv 2410.18823), which rewards a generator for what an OCR engine reads of
letters of several scripts. Its code is not public, so the formula is ours: edit distance as in Flow-GRPO's OCR reward,
against the nearest part of what was read, for several texts at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.pictures import PictureError
from mmrl.types import Prompt, Sample, Score

from .ocr_engines import open_engine
from .towers import rgb
from .writing import Alike, Found, found_in, of_scripts, quotations, scripts_in

_MOST_READ = 2_000  # letters of a reading that are looked at


class written:
    """How well the texts of a prompt are written in its picture, 0 to 1; needs an OCR engine.

    What should be there is all that the prompt quotes, in the quotes of any script, or the record's column `texts`:
    one for each place, a text or a list of admissible ones, of which the best counts. A text's agreement is
    1 - d / length, d the edit distance to the nearest part of what was read, each part serving one text; the score is
    their mean, times asked / read letters where more was read than asked (`surplus: counted`; `free` asks for no less).
    `details` has each text with its agreement, and what was read.

    engine, languages, engine_options: see ocr_engines.open_engine. script: "strict" leaves out letters of scripts that
    no text of the prompt has, so that look-alikes of another script count for nothing (and are surplus); "any" does
    not. form, case, spaces, permit, equivalent: see writing.Alike.
    """

    def __init__(
        self,
        engine: str = "rapidocr",
        languages: Sequence[str] = ("en",),
        engine_options: Mapping[str, Any] | None = None,
        script: str = "strict",
        surplus: str = "counted",
        texts: str = "texts",
        form: str = "NFKC",
        case: bool = False,
        spaces: bool = False,
        permit: Sequence[str] = (),
        equivalent: Sequence[str] = (),
    ) -> None:
        if script not in ("strict", "any"):
            raise ValueError(f"script={script!r} must be strict or any")
        if surplus not in ("counted", "free"):
            raise ValueError(f"surplus={surplus!r} must be counted or free")
        if "lookalikes" in permit and script == "strict":
            raise ValueError("permit: lookalikes are letters of other scripts, which script='strict' leaves out")
        self.strict, self.counted, self.texts = script == "strict", surplus == "counted", texts
        self.alike = Alike(form, case, spaces, tuple(permit), tuple(equivalent))
        self.readers = open_engine(engine, languages, engine_options or {})

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def check_prompt(self, prompt: Prompt) -> str | None:
        """Why the prompt cannot be scored, or None."""
        column = prompt.record.get(self.texts)
        if column is not None and (fault := _fault(column)):
            return f"prompt {prompt.id!r}: its column {self.texts!r} {fault}"
        asked = self._asked(prompt)
        if not asked:
            return f"prompt {prompt.id!r} quotes no text for the picture to carry, and has no column {self.texts!r}"
        for texts in asked:
            if empty := next((text for text in texts if not self.alike(text)), None):
                return f"prompt {prompt.id!r}: nothing of {empty!r} counts, as spaces and `permit` leave it out"
            if not any(reader.knows(text) for reader in self.readers for text in texts):
                told = " and ".join(sorted(scripts_in(texts[0])))
                return f"prompt {prompt.id!r}: the engine reads no {told}, as in {texts[0]!r:.80}; see `languages`"
        return None

    def _asked(self, prompt: Prompt) -> list[list[str]]:
        """For each text that should be there its admissible forms."""
        column = prompt.record.get(self.texts)
        if column is None:
            return [[text] for text in quotations(prompt.text)]
        return [[one] if isinstance(one, str) else list(one) for one in column]

    def _score(self, sample: Sample) -> Score:
        if reason := self.check_prompt(sample.prompt):
            return Score(None, reason, "na")
        try:
            picture = rgb(sample.artifact)
        except PictureError as error:
            return Score.invalid(str(error))
        asked = self._asked(sample.prompt)
        scripts = scripts_in("".join(text for some in asked for text in some))
        best: dict[int, Found] = {}
        read: list[str] = []
        wrong: dict[str, int] = {}
        for reader in self.readers:
            known = {k: [text for text in some if reader.knows(text)] for k, some in enumerate(asked)}
            known = {k: [self.alike(text) for text in some] for k, some in known.items() if some}
            if not known:
                continue
            said = reader.read(picture)[:_MOST_READ]
            kept, of_others = of_scripts(said, scripts) if self.strict else (said, {})
            for k, found in zip(known, found_in(list(known.values()), self.alike(kept))):
                best[k] = max(best.get(k, found), found, key=lambda one: one.agreement)
            read.append(said)
            wrong |= of_others
        told = [best[k] for k in range(len(asked))]
        letters = sum(len(one.text) for one in told)
        share = letters / max(letters, *(len(self.alike(said)) for said in read))
        value = sum(one.agreement for one in told) / len(told) * (share if self.counted else 1.0)
        details = {"texts": _named(told), "read": read, "asked_of_read": round(share, 4)}
        return Score.of(value, **details, **({"wrong_script": wrong} if wrong else {}))


def _named(told: Sequence[Found]) -> dict[str, float]:
    """The agreement by text; the second of two equal ones has a number."""
    names = [one.text for one in told]
    places = [f"{name} ({names[:k].count(name) + 1})" if name in names[:k] else name for k, name in enumerate(names)]
    return {place: round(one.agreement, 4) for place, one in zip(places, told)}


def _fault(column: Any) -> str:
    """What is wrong with a column of texts; "" where nothing is."""
    if not isinstance(column, list | tuple) or not column:
        return "is no list of texts"
    for one in column:
        some = [one] if isinstance(one, str) else one
        if not isinstance(some, list | tuple) or not some or not all(isinstance(text, str) and text for text in some):
            return "holds something else than a text, or a list of admissible ones"
    return ""
