"""Captions against a reference: BLEU-4 by NLTK and ROUGE-L by Google's rouge-score, half each, as SATORI has them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from mmrl.types import Prompt, Sample, Score

from .answers import text_of
from .boxes import column
from .places import said_in_tag

_COLUMNS = ("caption", "image_caption")
_MOST_WORDS = 2000  # the time of ROUGE-L grows with the product of two lengths
# Scripts that put no space between words are compared by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def overlap(samples: list[Sample], tag: str | None = "caption", bleu: float = 0.5) -> list[Score]:
    """bleu * BLEU-4 + (1 - bleu) * ROUGE-L against the record's `caption` (or `image_caption`), 0 to 1.

    BLEU-4 of one sentence, against all references where the column is a list, with smoothing method 1; ROUGE-L is the
    F1 of stemmed words, the best over the references. Both of words in lower case, without punctuation. A caption of
    under four words has no four in a row: BLEU is of the shorter runs then, lest an equal caption score 0.56.
    0 without a caption, and for one of over 2000 words. tag: the caption is in the last whole <tag>; null takes the
    whole completion. Raises ValueError for a share outside [0, 1].
    """
    if not 0 <= bleu <= 1:
        raise ValueError(f"bleu={bleu} must be from 0 to 1")
    return [_score(sample, tag, bleu) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `overlap` cannot score this prompt, or None; to be asked before training."""
    return None if _references(prompt) else _lacks(prompt)


def _score(sample: Sample, tag: str | None, bleu: float) -> Score:
    references = _references(sample.prompt)
    if not references:
        return Score(None, _lacks(sample.prompt), "na")
    said = text_of(sample) if tag is None else said_in_tag(text_of(sample), tag)
    words = _words(said or "")
    if not words or len(words) > _MOST_WORDS:
        return Score.of(0.0, why="no caption" if not words else f"over {_MOST_WORDS} words")
    of_words = [_words(reference) for reference in references]
    by_bleu = sentence_bleu(of_words, words, smoothing_function=SmoothingFunction().method1, auto_reweigh=True)
    by_rouge = max(_ROUGE.score(reference, said)["rougeL"].fmeasure for reference in references)
    return Score.of(bleu * by_bleu + (1 - bleu) * by_rouge, bleu=round(by_bleu, 4), rouge=round(by_rouge, 4))


def _references(prompt: Prompt) -> list[str]:
    value = column(prompt, _COLUMNS)
    texts = value if isinstance(value, list | tuple) else [value]
    return [text for text in texts if isinstance(text, str) and _words(text)]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class _Stems(Tokenizer):
    """rouge-score's own words and stems, in all scripts: it would drop what is not ASCII."""

    def __init__(self) -> None:
        self._stemmer = PorterStemmer()

    def tokenize(self, text: str) -> Sequence[str]:
        return [self._stemmer.stem(word) if len(word) > 3 else word for word in _words(text)]


_ROUGE = RougeScorer(["rougeL"], tokenizer=_Stems())


def _lacks(prompt: Prompt) -> str:
    return f"prompt {prompt.id!r} lacks a `caption` (data.columns can take it from another column)"
