"""Prompts as ids: templates, messages, system texts, what cannot be used, and ids that end a completion."""

from __future__ import annotations

import warnings

import pytest
import torch

from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens import loading
from mmrl.modalities.tokens.prompts import PromptEncoder, TooLong
from mmrl.modalities.tokens.tokenizer import build_tokenizer
from mmrl.types import Group, Prompt

CHAT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def encoder():
    def make(limit=1000, template=None, chat_tokenizer=True, **options):
        tokenizer = build_tokenizer(chat=chat_tokenizer)
        if template is not None:
            tokenizer.chat_template = template
        return PromptEncoder(tokenizer, ModelConfig(path="built", **options), limit)

    return make


def ids(encoder, text, record):
    return encoder.ids(encoder.opening(Prompt("p", text, record)))


def text(encoder, ids) -> str:
    return encoder.tokenizer.decode(ids)


def test_a_prompt_is_a_user_turn_where_there_is_a_template(encoder):
    made = encoder()
    assert text(made, ids(made, "Hi", {})) == CHAT
    plain = encoder(chat="off")
    assert text(plain, ids(plain, "Hi", {})) == "Hi"
    without = encoder(chat_tokenizer=False)
    assert text(without, ids(without, "Hi", {})) == "Hi"


def test_messages_are_rendered_and_a_system_text_comes_first(encoder):
    made = encoder(system="Be brief.")
    messages = [
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    turns = "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n"
    assert text(made, ids(made, "C", {"messages": messages})) == system + turns + "<|im_start|>assistant\n"
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]
    assert text(made, ids(made, "Hi", {"messages": own})) == f"<|im_start|>system\nMine.<|im_end|>\n{CHAT}"
    assert text(made, ids(made, "Hi", {})) == system + CHAT


def test_special_tokens_of_the_template_are_single_ids(encoder):
    made = encoder()
    end = made.tokenizer.eos_token_id
    assert ids(made, "Hi", {}).tolist().count(end) == 1
    assert len(ids(made, "Hi", {})) == 3 + len("user\nHi\nassistant\n")  # a byte a token


def test_a_prompt_over_the_limit_is_told_and_never_cut(encoder):
    made, prompt = encoder(limit=len(CHAT), chat="off"), Prompt("p", "x")
    made.check_length(prompt, len(ids(made, "x" * len(CHAT), {})))
    long = ids(made, "x" * (len(CHAT) + 1), {})
    assert len(long) == len(CHAT) + 1
    with pytest.raises(TooLong, match=f"{len(CHAT) + 1} tokens, {len(CHAT)} is the most"):
        made.check_length(prompt, len(long))


def test_the_adapter_says_why_a_prompt_cannot_be_used(adapter):
    policy = adapter(build={"context": 64})
    fits = 64 - 12 - len("user\n\nassistant\n") - 3
    assert policy.usable(Prompt("a", "x" * fits)) is None
    assert f"{64 - 12} is the most" in policy.usable(Prompt("b", "x" * (fits + 1)))
    with pytest.raises(ValueError, match="is the most"):
        policy.rollout([Group(Prompt("b", "x" * (fits + 1)), 0)], 2, 0, 0)
    assert "10 is the most" in adapter(max_prompt_tokens=10).usable(Prompt("c", "hello"))
    with pytest.raises(ValueError, match="no prompt in a context of 64"):
        adapter(build={"context": 64}, sampling={"max_tokens": 64})


@pytest.mark.parametrize(
    "record, options, words",
    [
        ({"messages": "Hi"}, {}, "not a list of"),
        ({"messages": []}, {}, "not a list of"),
        ({"messages": [{"role": "user"}]}, {}, "not a list of"),
        ({"messages": [{"role": r, "content": "Hi"} for r in ("system", "user")]}, {"chat": "off"}, "no chat template"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, {"chat": "off"}, "no chat template"),
    ],
)
def test_records_that_cannot_be_rendered_are_named(encoder, record, options, words):
    made = encoder(**options)
    assert words in made.unfit(made.opening(Prompt("p", "Hi", record)))


REFUSES = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Roles must\nalternate') }}{% endif %}0"


@pytest.mark.parametrize(
    ("template", "said"), [(REFUSES, "Roles must alternate"), ("{{ messages[0].content.nothing.more }}", "nothing")]
)
def test_messages_that_the_template_refuses_are_an_error_of_one_line(encoder, template, said):
    made = encoder(template=template)
    with pytest.raises(ValueError, match=f"^the chat template does not take these messages: .*{said}.*$"):
        ids(made, "Hi", {"messages": [{"role": "system", "content": "Mine."}]})


def test_an_empty_prompt_without_template_has_no_token(encoder):
    made = encoder(chat="off")
    with pytest.raises(TooLong, match="has no token"):
        made.check_length(Prompt("p", ""), len(ids(made, "", {})))


def test_one_user_message_needs_no_template(encoder):
    made = encoder(chat="off")
    assert text(made, ids(made, "-", {"messages": [{"role": "user", "content": "Hi"}]})) == "Hi"


def test_a_system_text_needs_a_template(encoder):
    with pytest.raises(ValueError, match=r"model.system needs a chat template"):
        encoder(chat_tokenizer=False, system="Be brief.")
    with pytest.raises(ValueError, match="system needs a chat template"):
        ModelConfig(path="x", chat="off", system="Be brief.")


def test_given_answers_end_with_eos_and_ids_are_taken_as_they_are(encoder):
    made = encoder()
    end = made.tokenizer.eos_token_id
    assert made.answer_ids("42").tolist() == [*made.tokenizer("42").input_ids, end]
    assert made.answer_ids([7, 8, 9]).tolist() == [7, 8, 9]


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_a_saved_tokenizer_is_the_same_tokenizer(adapter, tmp_path, kind):
    from transformers import AutoTokenizer

    policy = adapter(build={"kind": kind, "corpus": ["the cat sat on the mat", "12 + 30 = 42"] * 5, "vocab": 300})
    policy.save(tmp_path / "p")
    again = AutoTokenizer.from_pretrained(tmp_path / "p")
    for words in ("the cat sat", "12 + 30 = 42", "x =\n\n 3<|im_end|>", "héllo, wörld … 漢字", "  a , b"):
        ids = policy.tokenizer(words).input_ids
        assert again(words).input_ids == ids
        assert again.decode(ids, clean_up_tokenization_spaces=False) == words
    assert again.chat_template == policy.tokenizer.chat_template


# -------------------------------------------------------------------- ids that end a completion


def stops(adapter, of_model, of_tokenizer=2):
    policy = adapter()
    policy.model.generation_config.eos_token_id = of_model
    policy.model.config.eos_token_id = None
    policy.tokenizer.eos_token_id = of_tokenizer
    return loading.stop_ids(policy.model, policy.tokenizer)


def test_every_eos_id_ends_a_completion(adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stops(adapter, [2, 0]) == (0, 2)
        assert stops(adapter, 2) == (2,)
        assert stops(adapter, None) == (2,)


def test_a_tokenizer_with_another_eos_than_the_model_is_reported_in_one_line(adapter):
    with pytest.warns(UserWarning, match=r"EOS '<\|im_end\|>' \(2\) is not among the model's \(0\)") as found:
        assert stops(adapter, 0) == (0, 2)
    assert len(found) == 1 and "\n" not in str(found[0].message)


def test_padding_of_the_vocabulary_is_banned(adapter, roll):
    policy = adapter()
    policy.model.resize_token_embeddings(policy.model.config.vocab_size + 5)
    policy.banned = loading.unused_ids(policy.model, policy.tokenizer)
    assert policy.banned == tuple(range(259, 264))
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[259:] = 100 * policy.model.get_output_embeddings().weight[:5]
    samples = roll(policy, n=4)
    assert max(int(s.trajectory.tensors["ids"].max()) for s in samples) < 259
    columns = torch.arange(12)
    logp = policy.logprobs(samples, columns).logp.detach()
    for row, sample in zip(logp, samples):
        stored = sample.trajectory.logp
        torch.testing.assert_close(row[: len(stored)], stored, rtol=0, atol=1e-5)


def test_an_end_that_a_tokenizer_puts_behind_every_text_is_no_part_of_a_prompt():
    """Some Llamas have add_eos_token: a policy that goes on behind an EOS answers nothing that was asked."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(special=["<s>", "</s>"], chat=False)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    start, end = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    made = PromptEncoder(tokenizer, ModelConfig(path="x"), 100, [end])
    for text in ("Hi", "Hi</s>"):
        assert tokenizer.decode(made.ids(made.opening(Prompt("p", text)))) == f"<s>{text}"


def test_a_template_that_writes_the_date_is_told_with_what_fixes_it(encoder):
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }}"
    template = dated + "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.warns(UserWarning, match=r"writes today's date.*set model.chat_template_kwargs: {date_string: ...}"):
        encoder(template=template)
    with pytest.warns(UserWarning, match="writes today's date.*take a copy of the template without it"):
        encoder(template="{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = encoder(template=template, chat_template_kwargs={"date_string": "1 May 2025 "})
        encoder(template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert made.tokenizer.decode(made.ids(made.opening(Prompt("p", "Hi")))) == "1 May 2025 Hi"


def test_a_prompt_that_shows_pictures_is_no_prompt_of_texts(adapter):
    """S16: a mark of a picture or of a video's frames must not be trained as a word; a tag that means none is one."""
    policy = adapter()
    shown = {"images": ["a.png"], "completion": "a"}
    messages = [{"role": "user", "content": "<image>What?"}]
    for prompt in (Prompt("p", "<image>What?", shown), Prompt("p", "What?", {**shown, "messages": messages})):
        told = "shows pictures, which this modality does not read"
        assert policy.usable(prompt) == told
        with pytest.raises(ValueError, match=told):
            policy.given(prompt, ["a"])
    assert policy.usable(Prompt("p", "What is <image> in HTML?")) is None
    assert policy.usable(Prompt("p", "Draw it.", shown)) is None  # what a reward compares with
