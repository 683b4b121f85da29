"""Records as other libraries and papers publish them, made into ours.

Ours: `prompt`, a text in which each `<image>` stands for the next of the list `images` and each `<audio>` for the next
of `sounds`, or `messages` of {"role",
"content"} texts; `answer`; `completion`, `chosen` and `rejected` where a record has them; of a pair `candidates` and
`shares` (see candidates.py). All other columns stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from mmrl.config import RecordFormat
from mmrl.data.candidates import is_pair, with_candidates
from mmrl.data.forms.chats import ASSISTANT, alpaca, answered, plain, satori, swift, trl, vlm_r1
from mmrl.data.forms.listening import aqa, is_aqa
from mmrl.data.forms.programs import cad_coder, cad_recode, execad, gencad_code, program_format_of, text2cad
from mmrl.data.forms.questions import mgpo, mmpr, sat, ui_s1, visionthink
from mmrl.data.heard import sounds, unheard
from mmrl.data.messages import (
    MESSAGES,
    are_messages,
    conversation,
    last_user_text,
    messages_in,
    one_answer,
    with_prompt_inside,
    with_system,
)
from mmrl.data.options import check_options
from mmrl.data.pair_formats.kinds import PAIR_FORMATS, pair_format_of
from mmrl.data.shown import listed, pictures, refuse_unknown_marks
from mmrl.data.template import are_schemas, handed_to_template
from mmrl.media import SOUND_COLUMNS, sound_column

AUTO, PLAIN = "auto", "plain"
SYSTEM = ("system", "system_prompt")
# Columns that are shown or learned: null in them, as in a table of mixed rows, is a column that is not there.
_ABSENT = frozenset({
    "messages", "conversations", "context_messages", "images", "image", "image_path", *SOUND_COLUMNS, *SYSTEM,
    "completion", "chosen", "rejected", "rejected_response", "rejected_messages",
})  # fmt: skip
_LISTS = frozenset({"images", "messages", *SOUND_COLUMNS})
# Columns of these formats that would change what a policy sees, and that nothing here shows.
_UNSEEN_MEDIA = ("video", "videos", "rejected_images")


def normalised(record: Mapping[str, Any], form: RecordFormat = "auto", every_turn: bool = False) -> dict[str, Any]:
    """The record in our form; one that is in our form already comes out as it is.

    form: a key of FORMATS, or auto, which tells by the columns (see `format_of`). every_turn: of messages that end with
    an answer, every answer is one to learn, not only the last (see messages.conversation). Pure: `record` is not
    changed, and no file is opened.
    Raises ValueError for a record that lacks a column of its format, for messages or pictures that are none, and for
    one whose text has another number of `<image>` than there are pictures, or of `<audio>` than sounds. Without any
    mark, they stand in front.
    """
    record = _without_empty(record)
    return _normalised(record, _format_of(record) if form == AUTO else form, every_turn)


def as_ours(
    record: Mapping[str, Any], form: RecordFormat = "auto", every_turn: bool = False
) -> tuple[dict[str, Any], set[str], str]:
    """(what `normalised` gives, what `unseen` gives, the format's name), for one look at the columns."""
    record = _without_empty(record)
    name = _format_of(record) if form == AUTO else form
    return _normalised(record, name, every_turn), _unseen(record, name), name


def _normalised(record: Mapping[str, Any], name: str, every_turn: bool) -> dict[str, Any]:
    changes = FORMATS[name](record)
    made = {key: value for key, value in {**record, **changes}.items() if key not in changes or value is not None}
    made |= with_prompt_inside(made.get("chosen"), made.get("rejected"), made.get("prompt"))
    given = made.get("messages") or made.get("prompt")
    if isinstance(given, list) and given:
        begun = bool(made.get("continue_final_message"))
        made |= conversation(given, made, every_turn, begun)
        made["prompt"] = last_user_text(made["messages"])
    elif not isinstance(made.get("messages", []), list | None):
        raise ValueError("`messages` must be a list of {role, content}")
    if name != PLAIN:
        made |= _told_first(made)
    refuse_unknown_marks(made)
    made |= handed_to_template(made)
    made |= {key: one_answer(made[key], key) for key in ("completion", "chosen", "rejected") if key in made}
    paired = with_candidates(made)
    made |= sounds(made)
    if made.get("sounds"):
        check_options(made)
    return made | pictures(made, asked=name != PLAIN or bool(paired)) | paired


def format_of(record: Mapping[str, Any]) -> str:
    """The format that a record's columns are of; plain, ours, for any others."""
    return _format_of(_without_empty(record))


def _format_of(record: Mapping[str, Any]) -> str:
    has = {column for column, value in record.items() if value is not None}
    whole = all(isinstance(record.get(column), list) for column in ("chosen", "rejected"))
    pictured = bool(has & {"image", "images", "image_path"})
    if is_pair(record):
        return PLAIN
    paired = pair_format_of(record)
    if paired is not None:
        return paired
    if is_aqa(record):
        return "aqa"
    built = program_format_of(has)
    if built is not None:
        return built
    if {"goal", "steps"} <= has and "prompt" not in has:
        return "ui_s1"
    if "image_path" in has and "images" not in has and has & {"prompt", "question"}:
        return "mgpo"
    if "prompt" in has:
        return "trl" if isinstance(record["prompt"], list) else PLAIN
    if "conversations" in has:
        return "vlm_r1"
    if "messages" in has:
        return "satori" if "possible_answers" in has else "swift"
    if "context_messages" in has or (whole and "question" not in has):
        return "trl"
    if {"question", "chosen", "rejected"} <= has:
        return "mmpr"
    if all(isinstance(text := record.get(column), str) and ASSISTANT in text for column in ("chosen", "rejected")):
        return "trl"
    if {"question", "answers", "correct_answer", "image_bytes"} <= has:
        return "sat"
    if "query" in has:
        return "swift"
    if "instruction" in has:
        return "alpaca"
    if pictured and "problem" in has:
        return "visionthink"
    return "mgpo" if pictured and "question" in has else PLAIN


def unseen(record: Mapping[str, Any], form: RecordFormat = "auto") -> set[str]:
    """Columns of a record that would change what a policy sees in other libraries, and do not here."""
    record = _without_empty(record)
    return _unseen(record, _format_of(record) if form == AUTO else form)


def _unseen(record: Mapping[str, Any], name: str) -> set[str]:
    heard = unheard(record) if name != "aqa" or sound_column(record) else set()
    found = heard | {column for column in (() if name == PLAIN else _UNSEEN_MEDIA) if record.get(column)}
    if name == "swift" and (answered(record.get("messages")) or record.get("response") is not None):
        found -= {"rejected_images"}
    if name == PLAIN:
        if isinstance(record.get("tools"), list) and not are_schemas(record["tools"]):
            found.add("tools")
        messages = record.get("messages")
        first = messages[0] if are_messages(messages) else {}
        said = first.get("content") if first.get("role") == "system" else None
        found |= {column for column in SYSTEM if record.get(column) and record[column] != said}
        return found
    shown = listed(record["images"]) if "images" in record else []
    names = {column: record.get(column) for column in ("image", "image_path")} if shown else {}
    return found | {column for column, name in names.items() if isinstance(name, str) and name not in shown}


def _without_empty(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without columns of _ABSENT that are null, nor `images` and `messages` that are empty lists.

    They say as much as a column that is not there. Others stay, for a reward may be meant to meet their null. Messages
    that are a text of JSON, as a table without lists holds them, are read.
    """
    made = {key: value for key, value in record.items() if not (key in _ABSENT and _says_nothing(key, value))}
    for key in MESSAGES:
        if isinstance(made.get(key), str) and (told := messages_in(made[key])) is not None:
            made[key] = told
    return made


def _says_nothing(key: str, value: Any) -> bool:
    return value is None or (key in _LISTS and isinstance(value, list | tuple) and not value)


def _told_first(made: Mapping[str, Any]) -> dict[str, Any]:
    """{"messages"} that begin with the text of a column of SYSTEM, {} where there is none."""
    found = {column: made[column] for column in SYSTEM if made.get(column) is not None}
    for column, text in found.items():
        if not isinstance(text, str):
            raise ValueError(f"`{column}` is {type(text).__name__}, expected a text")
    texts = {text for text in found.values() if text.strip()}
    if len(texts) > 1:
        raise ValueError(f"{' and '.join(f'`{column}`' for column in found)} say different things")
    if not texts:
        return {}
    messages = made.get("messages") or [{"role": "user", "content": made.get("prompt")}]
    return {"messages": with_system(messages, texts.pop(), next(iter(found)))}


FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "plain": plain,
    "trl": trl,
    "swift": swift,
    "alpaca": alpaca,
    "satori": satori,
    "mgpo": mgpo,
    "visionthink": visionthink,
    "vlm_r1": vlm_r1,
    "mmpr": mmpr,
    "ui_s1": ui_s1,
    "sat": sat,
    "aqa": aqa,
    "execad": execad,
    "cad_coder": cad_coder,
    "gencad_code": gencad_code,
    "cad_recode": cad_recode,
    "text2cad": text2cad,
    **PAIR_FORMATS,
}
assert {AUTO, *FORMATS} == set(get_args(RecordFormat))
