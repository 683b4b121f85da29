"""Tokenizers of tiny models, learned from a few texts without any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mmrl.share import resolve

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
BYTES = 256

# Cuts text as transformers' Qwen2 tokenizer does: AutoTokenizer rebuilds that class for Qwen folders and would ignore
# any other pre-tokenizer that is saved there.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer(
    corpus: str | Sequence[str] = (),
    vocab: int = 0,
    chat: bool = True,
    special: Sequence[str] = (),
    named: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer that any text survives: special tokens (3 and those given), the 256 bytes, and merges.

    corpus: texts, or a file of them by line, that merges are learned from. vocab: size of the vocabulary; 259 or
    less has no merges, so that every character of ASCII is a token. chat: with a ChatML template.
    special: more special tokens. named: attribute of the tokenizer -> its special token, as some processors want them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    texts = resolve(corpus).read_text(encoding="utf-8").splitlines() if isinstance(corpus, str) else list(corpus)
    everything = [PAD, START, END, *special, *(named or {}).values()]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=max(vocab, len(everything) + BYTES),
            special_tokens=everything,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, pad_token=PAD, extra_special_tokens=dict(named or {})
    )
    if chat:
        tokenizer.chat_template = CHATML
    return tokenizer
