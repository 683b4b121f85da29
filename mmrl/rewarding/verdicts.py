"""Which of several candidates a judge names: in its <answer>, and in the words of its reasoning before."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmrl.thoughts import outside

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)(</answer>)?", re.DOTALL)
_NAMES = r"response|answer|candidate|option|reply|image|picture|antwort|bild|r[ée]ponse|respuesta|imagen"
_HAN = "回答|回复|答案|图片|图"
_PLACE = re.compile(rf"(?:the\s+)?(?:{_NAMES}|{_HAN})?\s*[#(*\[]*\s*(\d{{1,3}})\s*[)*\].]*", re.IGNORECASE)
_BEGUN = re.compile(rf"\s*{_PLACE.pattern}(?!\w)", re.IGNORECASE)


def read_verdict(text: str, n: int) -> int | str:
    """The place, from 0, of the one of `n` candidates that the text's only <answer> names; or why there is none.

    "<answer>2</answer>" and "<answer>Response 2</answer>" are place 1. What stands in a thought is no answer, and what
    a thought parts stays apart. No <answer>, two of them (of one verdict, or where one that begins with a candidate
    has no end, too), anything else in it and a number that is not from 1 to n are reasons.
    """
    spoken = "\n".join(outside(text))
    tags = _ANSWER.findall(spoken)
    found = [inside for inside, end in tags if end or _BEGUN.match(inside)]
    if not any(end for _, end in tags):
        return "no verdict: no end of its thought" if not spoken.strip() and "<think>" in text else "no verdict"
    if len(found) > 1:
        return f"{len(found)} verdicts"
    named = _PLACE.fullmatch(found[0].strip())
    if named is None:
        return f"a verdict that names no response: {found[0].strip()[:40]!r}"
    if not 1 <= int(named[1]) <= n:
        return f"verdict {named[1]} of {n} responses"
    return int(named[1]) - 1


# -------------------------------------------------------------------- the words of the reasoning

_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "former": 1, "latter": 2,
    "erste": 1, "zweite": 2, "première": 1, "premiere": 1, "deuxième": 2, "seconde": 2, "primera": 1, "segunda": 2,
    "一": 1, "二": 2, "三": 3, "四": 4,
}  # fmt: skip
_WORD = "|".join(sorted(_ORDINALS, key=len, reverse=True))
_MENTION = (
    rf"(?:\b(?:{_NAMES})|{_HAN})\s*(?:no\.?\s*|number\s*)?[#(*\[]*\s*(?P<number>\d{{1,2}})(?!\d|\.\d)"
    rf"|\b(?:the|die|das|la|el)\s+(?P<word>{_WORD})\b|第(?P<han>[一二三四])个?"
)
_NUMBERED = re.compile(_MENTION, re.IGNORECASE)
# What a candidate is compared with is not what the comparison is about.
_COMPARAND = re.compile(
    r"(?:\b(?:than|over|unlike|against|versus|vs\.?|compared (?:to|with)|relative to|rather than|instead of|outperforms"
    r"|outshines|beats|surpasses|als|que)|优于|胜过|好于|不如|比)\s*(?:that of\s+)?"
    rf"(?:{_MENTION.replace('?P<', '?P<other_')})",
    re.IGNORECASE,
)
# Of the candidate before it, or else of the one behind it: "the better one is response 2".
_OF_ITS_SUBJECT = (
    r"\b(?:better|best|superior|preferable|preferred|stronger|strongest|wins?|winner|edge|outperforms|outshines|beats"
    r"|surpasses|chosen|besser|beste|meilleure?|mejor)\b|更好|更优|最好|最佳|优于|胜过|好于|更胜"
)
_WORSE = r"\b(?:worse|worst|inferior|weaker|weakest|loses|schlechter|pire|peor)\b|更差|不如"
# Of the candidate behind it, or else of the one before it: "response 2 gets my vote".
_OF_ITS_OBJECT = (
    r"\b(?:choose|pick|select|prefer|favou?r|vote|go with|opt for|side with|verdict|final answer|answer is|wähle"
    r"|bevorzuge|choisis|préfère|elijo|prefiero)\b|选择|选|结论"
)
_CUE = re.compile(rf"(?P<subject>{_OF_ITS_SUBJECT})|(?P<worse>{_WORSE})|(?P<object>{_OF_ITS_OBJECT})", re.IGNORECASE)
_CONCLUDES = re.compile(
    r"^\W*(?:and\s+)?(?:so|therefore|thus|hence|in conclusion|overall|finally|daher|also|donc|por tanto|因此|所以)\b",
    re.IGNORECASE,
)
# A conclusion about one candidate is for it, unless it finds fault with it.
_BLAMED = re.compile(
    r"\b(?:less|fail\w*|in(?:correct|accurate|complete)|wrong\w*|lacks?|miss\w*|poor\w*|errors?|mistake\w*|not|never)\b"
    r"|n['’]t\b|错|不",
    re.IGNORECASE,
)
_BARE = re.compile(r"\s*(?:is|:|=|be|为|是)*\s*(?:the\s+)?[#(*\[]*\s*(\d{1,2})(?!\d|\.\d)")
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|hardly|nicht|kein|pas|no|fail\w* to|far from|anything but)\b|n['’]t\b"
    r"|不(?!如)|没",
    re.IGNORECASE,
)
# Right before a cue they turn it round: "the least preferred", "the second best".
_LESSENED = re.compile(r"\b(?:less|least|second|third|next)[\s-]+$", re.IGNORECASE)
# Somewhere before a candidate they take back what is said of it: "I don't think that response 1 is better".
_DOUBTED = re.compile(
    r"(?:\b(?:not|cannot|never|hardly)\b|n['’]t\b)\s+(?:\w+\s+){0,3}?(?:think|say|said|believe|claim|argue|agree|call"
    r"|consider|find|true|clear|sure|certain|obvious|evident)\b(?!\s+(?:and|or)\b)"
    r"|\b(?:(?:i|we)\s+(?:\w+\s+)?doubt|doubtful|(?:hard|difficult) to|nobody|no one|(?:false|untrue|wrong) (?:that|to)"
    r"|a mistake to|unclear|uncertain|unsure|whether)\b|是否",
    re.IGNORECASE,
)
# What might be is no verdict.
_SUPPOSED = re.compile(
    r"\b(?:if|unless|could|might|may|(?:would|should|must)\s+have|wenn|könnte)\b|如果|可能", re.IGNORECASE
)
# Nor is praise for one side: "better written", "has the best picture of the two".
_PRAISED = re.compile(
    r"\s*(?:written|worded|phrased|structured|organi[sz]ed|formatted|presented|styled)\b", re.IGNORECASE
)
_HAVING = re.compile(
    r"\b(?:has|have|had|gives?|provides?|offers?|shows?|needs?|uses?|contains?)\s+(?:(?:a|an|the|some|much|far|even)\s+)*$",
    re.IGNORECASE,
)
_WHOLE = re.compile(
    r"\s+(?:overall|answer|response|reply|solution|choice|option|candidate|one|image|picture)\b|\W*$", re.IGNORECASE
)
_ONE_SIDED = frozenset({"better", "best", "superior", "stronger", "strongest"})
_JOINED = re.compile(r"\W*(?:and|or|/|und|oder|et|ou|y|o|和|与|或)\W*", re.IGNORECASE)
_UNDECIDED = re.compile(
    r"\b(?:neither|equally|tied?|on par|no clear winner|same quality|gleich|égales?|iguales)\b|不相上下|一样好",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"(?<!\bvs)(?<!\bno)[.!?;\n](?!\d)|[。！？；]|(?:,\s*)?\b(?:but|however|although|though|while|whereas|yet|aber|mais|pero)\b"
    r"|但是?|不过|然而|虽然",
    re.IGNORECASE,
)


def leaning(text: str, n: int) -> int | None:
    """The place, from 0, of the one of `n` candidates that the last verdict in a reasoning's words prefers; None where
    there is none, or it is of none of them.

    By rule, clause by clause from the end: "Response 2 is better than response 1", "I choose the first", "回答2更好",
    "Antwort 1 ist besser". Praise for one side of an answer ("more detailed", "better written") is no verdict, nor is a
    question, what might be, and what is said of two at once; one that is denied ("not better"), doubted ("I don't think
    that it is better"), or says that they are equal, is undecided. "Response 1 is worse" prefers the other of two.
    """
    for clause, asks in reversed(list(_clauses(text))):
        if asks:
            continue
        if _UNDECIDED.search(clause):
            return None
        masked = _COMPARAND.sub(_blanked, clause)
        cues = list(_CUE.finditer(masked))
        if not cues:
            if _CONCLUDES.search(masked) and len(named := {place for place, _ in _mentions(masked)}) == 1:
                return None if _BLAMED.search(masked) else _within(named.pop(), n)
            continue
        found = _of_cue(masked, cues[-1])
        if found is None:
            continue
        place, denied = found
        if denied:
            return None
        if cues[-1]["worse"]:
            return None if n != 2 or _within(place, n) is None else 1 - place
        return _within(place, n)
    return None


def _clauses(text: str) -> Iterator[tuple[str, bool]]:
    """(words, whether they are a question) of each clause."""
    start = 0
    for end in _CLAUSE.finditer(text):
        yield text[start : end.start()], end[0] in ("?", "？")
        start = end.end()
    yield text[start:], False


def _blanked(comparand: re.Match[str]) -> str:
    """The words without the candidate that they name; a cue among them stays."""
    cue = _CUE.match(comparand[0])
    kept = cue[0] if cue else ""
    return kept + " " * (len(comparand[0]) - len(kept))


def _mentions(clause: str) -> list[tuple[int, tuple[int, int]]]:
    """(place from 0, where it stands) of each candidate that is named."""
    return [(_place(found), found.span()) for found in _NUMBERED.finditer(clause)]


def _place(found: re.Match[str]) -> int:
    word = found["word"] or found["han"]
    return (_ORDINALS[word.lower()] if word else int(found["number"])) - 1


def _of_cue(clause: str, cue: re.Match[str]) -> tuple[int, bool] | None:
    """(the place that a cue is about, whether it is denied); None where it is about none."""
    head, tail = clause[: cue.start()], clause[cue.end() :]
    mentions = _mentions(clause)
    before = [(place, span) for place, span in mentions if span[1] <= cue.start()]
    behind = [(place, span) for place, span in mentions if span[0] >= cue.end()]
    if _SUPPOSED.search(re.split("[,，]", head)[-1]) or _is_one_sided(cue[0], head, tail):
        return None
    # "The answer is 2" may be the question's.
    bare = None if "answer" in cue[0].lower() else _BARE.match(clause, cue.end())
    if bare and not behind:
        behind = [(int(bare[1]) - 1, bare.span())]
    of_subject = cue["object"] is None
    if before and (of_subject or not behind):
        place, (start, end) = before[-1]
        denied = _DENIED.search(clause, end, cue.start())
    elif behind:
        place, (start, end) = behind[0]
        denied = _DENIED.search(clause, max(0, cue.start() - 20), cue.start())
    else:
        return None
    if any(other != place and _JOINED.fullmatch(_between(clause, (start, end), span)) for other, span in mentions):
        return None
    since = max([span[1] for _, span in mentions if span[1] <= start] + [clause.rfind(",", 0, start)])
    doubted = _DOUBTED.search(clause[max(since, 0) : max(start, cue.start())])
    return place, bool(denied or doubted or _LESSENED.search(head))


def _is_one_sided(word: str, head: str, tail: str) -> bool:
    """Whether a cue praises a side of an answer: its words before, head, and behind it, tail."""
    if word.lower() not in _ONE_SIDED:
        return False
    return bool(_PRAISED.match(tail) or (_HAVING.search(head) and not _WHOLE.match(tail)))


def _between(clause: str, one: tuple[int, int], other: tuple[int, int]) -> str:
    """The words between two places, the spans of which are apart."""
    return clause[min(one[1], other[1]) : max(one[0], other[0])]


def _within(place: int, n: int) -> int | None:
    return place if 0 <= place < n else None
