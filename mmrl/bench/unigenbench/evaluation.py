"""UniGenBench of a model, or of pictures that are there: drawn, judged picture by picture, scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrl.bench.items import MAX_PIXELS, Item
from mmrl.bench.judged import ANSWERED, REASON, Line, judged
from mmrl.bench.ledger import Ledger
from mmrl.bench.outcome import Outcome
from mmrl.bench.page import Point, write_page
from mmrl.bench.source import Source
from mmrl.bench.unigenbench.reading import Asked, read, strange
from mmrl.bench.unigenbench.replies import marks_in
from mmrl.bench.unigenbench.scores import rows
from mmrl.bench.unigenbench.words import Wording, wording_of
from mmrl.config import ConfigError
from mmrl.judging.options import Count, Seconds, check_options
from mmrl.near import short
from mmrl.pictures import open_image
from mmrl.rewarding.chat import Chat, Endpoint, Failure, Judge
from mmrl.rewarding.parts import picture_part, text_part

NAME = "unigenbench"
ATTEMPTS = 5  # the released scripts ask eleven times; here pauses double, and later tries are warmer
_SAID = 8000  # characters of an answer that are kept


def evaluate(
    file: str | Path,
    source: Source,
    judge: str | Judge,
    *,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    pictures: int = 4,
    language: str | None = None,
    limit: int | None = None,
    template: str | Path | None = None,
    definitions: str | Path | None = None,
    again: bool = False,
    allow: Sequence[str] = (),
    quiet: bool = True,
) -> Outcome:
    """Measure pictures on UniGenBench.

    file: one of the benchmark's CSVs; language: of a file that holds both; limit: its first prompts alone.
    judge: the URL of an OpenAI-compatible endpoint, up to and with /v1, with `options` (see `judge_at`), or a Judge.
    pictures: a prompt, 4 in the benchmark. template, definitions: the user's wording, see words.wording_of.
    out: the folder of settings.json, verdicts.jsonl and results.json, and of pictures that are drawn. An evaluation
    that was stopped goes on there; one with other settings is refused, but for those that `allow` names.
    again: ask once more about pictures whose answer could not be read.
    Raises ConfigError before anything is drawn or asked, and Unanswered where the judge answers no more.
    """
    found = read(file, language)
    wording = wording_of(found.language, template, definitions)
    asker = judge if isinstance(judge, Judge) else judge_at(judge, options or {})
    folder = Path(out)
    settings = {
        "benchmark": NAME,
        "file": _digest([(item.id, item.text, item.points, item.descriptions) for item in found.items]),
        "wording": _digest([wording.template, sorted(wording.definitions.items())]),
        "pictures_a_prompt": pictures,
        "pictures": source.settings(),
        "judge": _told(asker.chat) | {"attempts": asker.attempts},
    }
    items = found.items[:limit]
    gallery = source.gallery(folder, names, pictures)
    ledger = Ledger(folder, settings, allow)
    source.fill(gallery, items, quiet=quiet)
    lines = judged(
        items,
        gallery,
        ledger,
        lambda item, path: _verdict(asker, wording, item, path),
        threads=asker.threads,
        again=again,
        quiet=quiet,
    )
    told = [*found.notices, *strange(items, wording.definitions), *_lost(lines)]
    outcome = Outcome(NAME, rows(items, lines), told, lines, {"failed": _counts(lines), "language": found.language})
    outcome.write(folder)
    facts = {
        "pictures": len(lines),
        "prompts": len(items),
        "judge": _told(asker.chat).get("model", asker.chat.identity),
        "language": found.language,
        **source.facts(),
    }
    write_page(folder, outcome, gallery, items, points, facts)
    return outcome


def points(item: Asked, line: Line) -> list[Point]:
    """What the page says of a picture: each test point, with what of the prompt it is about."""
    marks = line.get("marks") or [None] * len(item.points)
    return [
        Point(name, None if mark is None else bool(mark), about)
        for name, mark, about in zip(item.points, marks, item.descriptions, strict=True)
    ]


def names(item: Item, k: int) -> list[str]:
    """What the benchmark's scripts call a picture."""
    return [f"{item.id}_{k}{suffix}" for suffix in (".png", ".jpg", ".jpeg", ".webp")]


def judge_at(url: str, options: Mapping[str, Any]) -> Judge:
    """The judge behind an endpoint. Raises ConfigError for an option that it does not have, and without `model`."""
    check_options(url, _served, options)
    if "model" not in options:
        raise ConfigError(f"judge {short(url)}: say what it serves (--judge-model); GET {short(url)}/models lists it")
    try:
        return _served(url, **options)
    except ValueError as error:
        raise ConfigError(f"judge {short(url)}: {error}") from error


def _served(
    url: str,
    *,
    model: str,
    max_tokens: Count = 4096,
    timeout: Seconds = 160.0,
    attempts: Count = ATTEMPTS,
    threads: Count = 16,
    key_env: str = "OPENAI_API_KEY",
    fields: dict[str, Any] | None = None,
) -> Judge:
    """fields: more of the request. The rest: see mmrl.rewarding.chat.Endpoint and Judge."""
    return Judge(Endpoint(url, model, key_env, timeout, max_tokens, fields), attempts, threads)


def _told(chat: Chat) -> dict[str, Any]:
    """What a judge's answers depend on, by name where it has names."""
    return {"url": chat.url, **chat.fields} if isinstance(chat, Endpoint) else {"identity": chat.identity}


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


# -------------------------------------------------------------------- asking


def _verdict(judge: Judge, wording: Wording, item: Asked, path: Path) -> Line:
    """`marks`, or why there are none; `said`: the judge's words; `answered`: whether it said anything at all."""
    heard: list[str] = []

    def read_marks(answer: str) -> tuple[int, ...] | None:
        heard.append(answer)
        return marks_in(answer, item.points)

    picture = open_image(path.name, path.parent, MAX_PIXELS)
    content = [picture_part(picture), text_part(wording.request(item))]
    (marks,) = judge.verdicts([[{"role": "user", "content": content}]], read_marks)
    said = {"said": heard[-1][-_SAID:]} if heard else {}
    if isinstance(marks, Failure):
        return {REASON: marks.reason, ANSWERED: bool(heard), **said}
    return {"points": item.points, "marks": marks, **said}


def _counts(lines: Sequence[Line]) -> dict[str, int]:
    """unread: pictures of which no answer could be read; unanswered: of which none came."""
    lost = [line for line in lines if REASON in line]
    return {
        "unread": sum(line[ANSWERED] for line in lost),
        "unanswered": sum(not line[ANSWERED] for line in lost),
    }


def _lost(lines: Sequence[Line]) -> Iterator[str]:
    counts, lost = _counts(lines), [line for line in lines if REASON in line]
    if not lost:
        return
    parts = (f"{counts['unread']} answers could not be read", f"{counts['unanswered']} requests were not answered")
    told = " and ".join(part for part in parts if not part.startswith("0 "))
    yield f"{len(lost)} of {len(lines)} pictures have no verdict: {told}; the first: {short(lost[0][REASON])}"
    yield "`score` leaves them out, as the benchmark's scripts do; `over all` counts their test points as not met"
    if counts["unanswered"]:
        yield "the same command makes the requests that were not answered once more"
    if counts["unread"]:
        yield "--again asks once more where an answer could not be read"
