"""Formats of questions about sounds: R1-AQA and Ke-Omni-R (AVQA, MusicBench), MMAU, MMAR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrl.data.forms.columns import text_in
from mmrl.data.forms.questions import choices_in
from mmrl.data.options import options_in

_QUESTIONS, _OPTIONS = ("question_text", "question"), ("multi_choice", "choices")
_SOUNDS = ("audio_path", "audio_id", "audio")


def aqa(record: Mapping[str, Any]) -> dict[str, Any]:
    """A question, its options behind letters, one a line, and a sound.

    `question_text`, `multi_choice` and `answer`, the number of the right option from 0 (R1-AQA), or `question`,
    `choices` and `answer`, its text (MMAU, MMAR); `audio_path`, `audio_id` or `audio`. AVQA asks about videos, of which
    the sound is given: there "video" becomes "audio", as R1-AQA has it.
    """
    column = next((name for name in _QUESTIONS if record.get(name) is not None), "question")
    question = text_in(record, column, "aqa")
    if column == "question_text":
        question = question.replace("video", "audio")
    options = next((record[name] for name in _OPTIONS if record.get(name) is not None), None)
    if options is None:
        raise ValueError("format aqa needs `choices` or `multi_choice`")
    found = [record[name] for name in _SOUNDS if record.get(name) is not None]
    # A table that holds the sound has its name or number beside it.
    sound = next((one for one in found if not isinstance(one, str)), found[0] if found else None)
    if sound is None and not record.get("sounds"):
        raise ValueError("format aqa needs a sound: `audio_path`, `audio_id` or `audio`")
    texts = options_in(options)
    made = {"prompt": "\n".join([question, *choices_in(texts)]), "choices": texts, "answer": _answer(record, texts)}
    return made if record.get("sounds") else made | {"sounds": [sound]}


def is_aqa(record: Mapping[str, Any]) -> bool:
    """Whether a record's columns are those of such a question."""
    has = {column for column, value in record.items() if value is not None}
    if "prompt" in has or "messages" in has:
        return False
    heard = bool(has & {*_SOUNDS, "sounds"})
    return heard and any(map(has.__contains__, _QUESTIONS)) and any(map(has.__contains__, _OPTIONS))


def _answer(record: Mapping[str, Any], texts: list[Any]) -> Any:
    """The right option's text. Raises ValueError for a number of none."""
    answer = record.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool):
        return answer
    if not 0 <= answer < len(texts):
        raise ValueError(f"`answer` is {answer}, the number of no option: there are {len(texts)}, counted from 0")
    return texts[answer]
