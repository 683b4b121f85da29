"""Turns of every family's chat template: rows token by token, ends, targets, arguments, and what templates refuse."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace

import pytest
import torch
from chat_templates import FAMILIES, PAD
from test_conversation import Script, pieces

from mmrl.environments.base import Context, Episode, Reply, drawn_by
from mmrl.environments.parsing import answered
from mmrl.modalities.text import tiny
from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens.prompts import PromptEncoder
from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample, Turn

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
QWEN3, R1 = FAMILIES["qwen3"], FAMILIES["deepseek-r1"]


class GoesOn:
    answers_cut = True

    def open(self, episode):
        return Context([{"role": "user", "content": episode.prompt.text}])

    def respond(self, episode):
        return Reply("Go on") if len(episode.said) < 3 else None


@pytest.fixture
def policy(adapter, monkeypatch):
    """policy(family, **model) -> a tiny model with the family's tokenizer and generation config."""

    def make(family, **model):
        build = tiny.build

        def built(**options):
            made, tokenizer = build(**options)
            stops = tokenizer.convert_tokens_to_ids(list(family.stops))
            made.generation_config.eos_token_id = stops or None
            return made, tokenizer

        monkeypatch.setattr(tiny, "build_tokenizer", lambda *args: family.tokenizer())
        monkeypatch.setattr(tiny, "build", built)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a tokenizer's EOS that is none of the model's
            return adapter(**model)

    return make


def encoder(family, **options):
    tokenizer = family.tokenizer()
    stops = tokenizer.convert_tokens_to_ids([family.eos, *family.stops])
    return PromptEncoder(tokenizer, ModelConfig(path="built", **options), 1000, stops)


def opened(made, record=None, text="Hi"):
    prompt = Prompt("p", text, record or {})
    return made.tokenizer.decode(made.ids(made.opening(prompt), prompt.record))


# -------------------------------------------------------------------- rows and ends


@every_family
@pytest.mark.parametrize("ends", ["itself", "cut", "otherwise"])
def test_a_conversation_is_its_turns_with_one_end_each(policy, family, ends):
    """The policy says "one", "two", "three": ended by the template's end, by its budget, or by another stop id."""
    made = policy(family)
    end = made.tokenizer.convert_tokens_to_ids(family.end)
    other = next((t for t in (PAD, *family.stops) if t != family.end), PAD)
    id_of = {"itself": end, "cut": None, "otherwise": made.tokenizer.convert_tokens_to_ids(other)}[ends]
    if id_of is not None and id_of not in made.stop_ids:
        made.stop_ids = (*made.stop_ids, id_of)
    made.environment, engine = GoesOn(), Script(made.tokenizer, *[(word, id_of) for word in ("one", "two", "three")])
    made._own_engine = lambda *_: engine
    (group,) = made.rollout([Group(Prompt("p", "Hi"), 0)], 1, 0, 0)
    (sample,) = group.samples
    said = {"itself": family.end, "cut": "", "otherwise": other}[ends]
    # Where the next role is what ends a turn, another end leaves it to be written.
    between = family.behind
    if ends == "cut" or (ends == "otherwise" and family is FAMILIES["glm-4"]):
        between = family.closing + family.behind
    assert made.tokenizer.decode(sample.trajectory.tensors["prompt"]) == family.opening
    assert pieces(made, sample) == [
        (f"one{said}", True), (between, False), (f"two{said}", True), (between, False), (f"three{said}", True)
    ]  # fmt: skip
    # What the policy said is as it was sampled, and each turn was asked behind all that stands before it.
    kept = sample.trajectory.tensors["ids"][sample.trajectory.mask].tolist()
    tail = [] if id_of is None else [id_of]
    assert kept == [i for word in ("one", "two", "three") for i in [*made.tokenizer(word).input_ids, *tail]]
    whole = torch.cat([sample.trajectory.tensors["prompt"], sample.trajectory.tensors["ids"]])
    assert all(row.ids.tolist() == whole[: len(row)].tolist() for row in engine.asked)


@every_family
def test_the_template_s_own_end_is_what_stops_sampling(policy, family):
    made = policy(family)
    wanted = {family.end, family.eos, *family.stops}
    assert set(made.stop_ids) == set(made.tokenizer.convert_tokens_to_ids(sorted(wanted)))


@every_family
def test_what_is_taught_ends_as_the_template_ends_an_answer(family):
    made = encoder(family)
    assert made.tokenizer.decode(made.answer_ids("one")) == family.target
    assert made.tokenizer.decode(made.answer_ids(family.target)) == family.target  # the end stands once
    assert made.answer_ids("one")[-1] == made.tokenizer.convert_tokens_to_ids(family.end)


@every_family
@pytest.mark.parametrize("behind", ["{end}\n", "{eos}", "{end}{eos}", "{end}\n{eos}\n", PAD])
def test_an_end_that_the_text_of_an_answer_brings_is_not_taught_twice(family, behind):
    made = encoder(family)
    words = family.target.removesuffix(family.end) + behind.format(end=family.end, eos=family.eos)
    assert made.tokenizer.decode(made.answer_ids(words)) == family.target
    assert made.tokenizer.decode(made.answer_ids("one" + behind.format(end=family.end, eos=family.eos))) == (
        family.target
    )
    plain = encoder(family, chat="off")
    assert plain.tokenizer.decode(plain.answer_ids(f"one{family.eos}\n")) == f"one{family.eos}"


def test_an_end_that_says_something_stays():
    made = encoder(FAMILIES["gpt-oss"])
    call = "<|channel|>commentary to=add<|message|>{}<|call|>"
    assert made.tokenizer.decode(made.answer_ids(call)) == call


@every_family
def test_given_turns_are_the_row_that_sampling_them_makes(policy, family):
    """SFT on a conversation: every answer is trained, and the ids are those of the conversation itself."""
    made = policy(family)
    words = family.target.replace(family.end, "")  # with the tokens that the policy says itself: a channel
    turns = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "Go on"},
             {"role": "assistant", "content": "one", "loss": False}, {"role": "user", "content": "Go on"},
             {"role": "assistant", "content": "one"}]  # fmt: skip
    (told,) = made.given(Prompt("p", "Hi"), [turns])
    assert made.tokenizer.decode(told.trajectory.tensors["prompt"]) == family.opening
    middle = f"{family.behind}{words}{family.end}{family.behind}"
    assert pieces(made, told) == [(f"{words}{family.end}", True), (middle, False), (f"{words}{family.end}", True)]
    assert [turn.role for turn in told.turns] == ["user", *["assistant", "user"] * 2, "assistant"]
    records = [{"prompt": "Hi", "completion": turns}]
    assert (
        made.supervised_weight(records) == told.trajectory.mask.sum() == 2 * len(made.reader.prompts.answer_ids("one"))
    )


@every_family
@pytest.mark.parametrize("words", ["one", "<think>so</think>one", "one{start}two"])
def test_an_answer_that_a_filter_keeps_is_given_again_id_by_id(policy, family, words):
    made, prompt = policy(family), Prompt("p", "Hi")
    (told,) = made.given(prompt, [words.format(start=family.special[0] if family.special else "<|im_start|>")])
    (again,) = made.given(prompt, [json.loads(json.dumps(made.completion(told)))])
    assert again.trajectory.tensors["ids"].tolist() == told.trajectory.tensors["ids"].tolist()


def test_without_a_template_an_answer_ends_with_the_tokenizer_s_eos():
    made = encoder(FAMILIES["gemma"], chat="off")
    assert made.tokenizer.decode(made.answer_ids("one")) == "one<eos>"
    assert made.stop_ids == tuple(sorted(made.tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])))


def test_a_template_that_takes_no_answer_leaves_the_end_to_the_tokenizer():
    made = encoder(FAMILIES["chatml"])
    made.tokenizer.chat_template = (
        "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}Q: {{ messages[0].content }}"
    )
    assert made.tokenizer.decode(made.answer_ids("one")) == "one<|im_end|>"


# -------------------------------------------------------------------- arguments, tools, beginnings


def test_arguments_of_the_template_come_from_the_config_and_first_from_the_record():
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    empty = QWEN3.opening + "<think>\n\n</think>\n\n"
    assert opened(encoder(QWEN3)) == QWEN3.opening
    assert opened(encoder(QWEN3), off) == opened(encoder(QWEN3, **off)) == empty
    assert opened(encoder(QWEN3, **off), {"chat_template_kwargs": {"enable_thinking": True}}) == QWEN3.opening
    made = encoder(QWEN3)
    reply = made.reply_ids([{"role": "user", "content": "Go on"}], made.turns.ends.end, off)
    assert made.tokenizer.decode(reply) == QWEN3.behind + "<think>\n\n</think>\n\n"
    # What the opening says is not taught a second time.
    assert made.tokenizer.decode(made.answer_ids("<think>\n\n</think>\n\none", off)) == "one<|im_end|>"
    assert made.tokenizer.decode(made.answer_ids("<think>so</think>one", off)) == "<think>so</think>one<|im_end|>"
    assert made.tokenizer.decode(made.answer_ids("<think>so</think>one")) == "<think>so</think>one<|im_end|>"
    opens = encoder(R1)
    for words in ("<think>\nso</think>one", "<think>so</think>one", "so</think>one"):
        assert opens.tokenizer.decode(opens.answer_ids(words)) == "so</think>one<|end_of_sentence|>"


@pytest.mark.parametrize("name", ["enable_thinkin", "tokenize", "add_generation_prompt", "tools"])
def test_arguments_that_the_template_does_not_read_are_refused(name):
    with pytest.raises(ValueError, match=rf"^model\.chat_template_kwargs has '{name}'.*leave it out$"):
        encoder(QWEN3, chat_template_kwargs={name: 1})
    made, record = encoder(QWEN3), {"chat_template_kwargs": {name: 1}}
    assert f"has a column `chat_template_kwargs` that has '{name}'" in made.unfit(
        made.opening(Prompt("p", "Hi", record)), record
    )


def test_arguments_need_a_template():
    with pytest.raises(ValueError, match="chat_template_kwargs needs a chat template; set chat: auto"):
        ModelConfig(path="x", chat="off", chat_template_kwargs={"enable_thinking": False})
    made = encoder(QWEN3, chat="off")
    for record in ({"chat_template_kwargs": {"enable_thinking": False}}, {"tools": [{"name": "f"}]}):
        assert f"has `{next(iter(record))}`, and there is no chat template" in made.unfit(
            made.opening(Prompt("p", "Hi", record)), record
        )


TOOL = {"type": "function", "function": {"name": "add", "description": "Adds."}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def test_tools_and_their_calls_are_what_the_template_writes():
    made = encoder(FAMILIES["qwen2.5"])
    messages = [
        {"role": "system", "content": "S"}, {"role": "user", "content": "1+?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "3"},
    ]  # fmt: skip
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    tools = '{"type": "function", "function": {"name": "add", "description": "Adds."}}'
    assert opened(made, {"messages": messages, "tools": [TOOL]}) == (
        f"<|im_start|>system\n# Tools\n{tools}<|im_end|>\n<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\n1+?<|im_end|>\n"
        f"<|im_start|>assistant\n{call}\n<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert made.tokenizer.decode(made.answer_ids(messages[2])) == call
    blind, record = encoder(FAMILIES["gemma"]), {"tools": [TOOL]}
    assert "has `tools`, and the chat template writes none" in blind.unfit(blind.opening(Prompt("p", "Hi")), record)
    names = {"tools": ["hammer"]}  # a column of the record's own
    assert (
        opened(blind, names) == FAMILIES["gemma"].opening
        and blind.unfit(blind.opening(Prompt("p", "Hi")), names) is None
    )


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "tool_calls"])
@pytest.mark.parametrize("family", ["deepseek-r1", "gemma", "llama-3", "mistral"])
def test_what_a_template_leaves_out_of_an_answer_is_refused(family, name):
    made = encoder(FAMILIES[family])
    message = {"role": "assistant", "content": "one", name: [CALL] if name == "tool_calls" else "so"}
    with pytest.raises(
        ValueError, match=f"chat template leaves `tool_calls` out|has `{name}`, which the .* leaves out"
    ):
        made.answer_ids(message)
    if name == "tool_calls":
        with pytest.raises(ValueError, match="leaves `tool_calls` out: leave such records out"):
            opened(made, {"messages": [{"role": "user", "content": "Hi"}, message, {"role": "user", "content": "Hi"}]})


@every_family
def test_keys_that_no_template_reads_change_nothing(family):
    made = encoder(family)
    message = {"role": "assistant", "content": "one", "name": "Bo", "date": "today"}
    assert made.tokenizer.decode(made.answer_ids(message)) == family.target


def test_words_of_a_role_that_the_template_drops_are_refused():
    made = encoder(FAMILIES["deepseek-v3"])
    told = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "one"},
        {"role": "tool", "content": "3"},
    ]
    with pytest.raises(ValueError, match="leaves out what role tool says"):
        made.reply_ids(told[2:], made.turns.ends.end)
    with pytest.raises(ValueError, match="leaves out what role tool says"):
        opened(made, {"messages": told})
    assert "leaves out what role tool says" in made.refusal(Prompt("p", "Hi", {"messages": told}))


@every_family
def test_a_prompt_that_ends_with_the_assistant_s_beginning_is_continued(family):
    made = encoder(family)
    record = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The sum is"}]}
    lead = family.target.partition("one")[0]
    assert opened(made, record) == f"{family.opening}{lead}The sum is"
    answer = made.tokenizer.decode(made.answer_ids(" 3.", record, continued=True))
    assert answer == f" 3.{family.target.rpartition('one')[2]}"


def test_a_beginning_that_the_opening_says_already_stands_once():
    thought = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nFirst,"}]}
    assert opened(encoder(R1), thought) == R1.opening + "First,"
    assert opened(encoder(QWEN3), thought) == QWEN3.opening + "<think>\nFirst,"
    for name in ("qwen3.5", "nemotron"):
        assert opened(encoder(FAMILIES[name]), thought) == FAMILIES[name].opening + "First,"


# -------------------------------------------------------------------- thoughts as rewards read them


def test_special_tokens_that_tell_thoughts_from_the_answer_stay_in_the_text(policy):
    made = policy(FAMILIES["gpt-oss"])
    said = "<|channel|>analysis<|message|>It is 5.<|end|><|start|>assistant<|channel|>final<|message|>7<|return|>"
    ids = torch.tensor(made.tokenizer(said, add_special_tokens=False).input_ids)
    text = made.reader.text(ids)
    assert text == "<|channel|>analysis<|message|>It is 5.assistant<|channel|>final<|message|>7"
    assert [paid("numeric.close", text, gold) for gold in ("5", "7")] == [0, 1]
    thinks = FAMILIES["mistral"]
    thinks = replace(thinks, special=(*thinks.special, "[THINK]", "[/THINK]"))
    made = policy(thinks)
    ids = torch.tensor(made.tokenizer("[THINK]5[/THINK]7</s>", add_special_tokens=False).input_ids)
    assert made.reader.text(ids) == "[THINK]5[/THINK]7"


def test_a_thought_that_the_template_opens_and_nobody_closes_is_no_answer(policy):
    made = policy(R1)
    prompt = Prompt("p", "Hi")
    assert made.reader.said(prompt, ["The answer is 5"]) == "<think>The answer is 5"
    assert made.reader.said(prompt, ["so</think>7", "The"]) == "so</think>7\n<think>The"
    assert [paid("numeric.close", made.reader.said(prompt, [t]), "5") for t in ("It is 5", "7?</think>5")] == [0, 1]
    (group,) = made.rollout([Group(prompt, 0)], 2, 0, 0)
    assert all(sample.artifact.startswith("<think>") for sample in group.samples)

    def begun(words):
        return Prompt(
            "p", "Hi", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": words}]}
        )

    assert made.reader.said(begun("The sum"), ["is 5"]) == "is 5"
    assert made.reader.said(begun("<think>\nFirst,"), ["5"]) == "<think>5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert made.reader.said(Prompt("p", R1.opening), ["5"]) == "<think>5"
    plain = policy(QWEN3)
    assert plain.reader.said(prompt, ["5"]) == plain.reader.said(begun("So"), ["5"]) == "5"
    assert plain.reader.said(begun("<think>\nSo"), ["5"]) == "<think>5"
    assert plain.reader.said(Prompt("p", "Use <think> tags."), ["5"]) == "5"
    off = policy(QWEN3, chat="off")
    assert off.reader.said(Prompt("p", "Q: 2+3? Think within <think>.\nA:"), ["5"]) == "5"
    assert off.reader.said(Prompt("p", "Q: 2+3?\nA: <think>"), ["5"]) == "<think>5"


def test_an_environment_sees_a_thought_that_the_template_opened(policy):
    """What it reads begins with the tag; the turns themselves stay as they were said, and are cut where it says."""

    class Watching:
        answers_cut, draws = True, ("order",)

        def open(self, episode):
            return Context([{"role": "user", "content": episode.prompt.text}])

        def respond(self, episode):
            self.heard = episode.said
            episode.info["answered"] = answered(episode.said[-1])
            return Reply("On.", keep=len(episode.said[-1]) - 2)

    def asked(family, *said, text="Hi"):
        made, world = policy(family), Watching()
        made.environment = world
        prompt = Prompt("p", text)
        turns = [Turn("user", text), *(Turn("assistant", words, trained=True) for words in said)]
        episode = Episode(prompt, turns=turns)
        seen = made.reader.environment_of(prompt)
        assert seen.answers_cut and drawn_by(seen) == ("order",)
        reply = seen.respond(episode)
        assert episode.turns == turns
        return world.heard, episode.info["answered"], reply.keep - len(said[-1])

    call = "<answer>5</answer>"
    assert asked(R1, call) == (["<think>" + call], False, -2)
    assert asked(R1, "so</think>" + call) == (["so</think>" + call], True, -2)
    assert asked(R1, "so</think>" + call, call) == (["so</think>" + call, "<think>" + call], False, -2)
    assert asked(QWEN3, call) == ([call], True, -2)
    made = policy(R1)
    assert made.reader.environment_of(Prompt("p", "Hi")) is None


def paid(reward, text, answer):
    prompt = Prompt("p", "q", {"answer": answer})
    group = Group(prompt, 0, [Sample(prompt, 0, text)])
    score_groups([group], [load_reward(reward)])
    return group.samples[0].scores[reward].value


# -------------------------------------------------------------------- templated already


@every_family
def test_a_prompt_that_is_templated_already_is_taken_as_it_is(family):
    made = encoder(family)
    with pytest.warns(UserWarning, match="^prompts are templated already, e.g. .*taken as they are") as told:
        assert opened(made, text=family.opening) == family.opening
        bare = family.opening.removeprefix(family.bos or "")
        assert opened(made, text=bare) == family.opening  # the template's start token comes with it
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for words in ("Hi", "Is <b>user</b> a tag?", "user\nHi"):
            assert opened(made, text=words) == family.opening.replace("Hi", words)


# -------------------------------------------------------------------- what templates refuse


@every_family
def test_what_a_template_refuses_is_one_line_that_says_what_to_do(family):
    made = encoder(family)
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    answer = {"role": "assistant", "content": "So"}
    cases = {
        "system": ([system, user], "role system here: put that text into the first message of the user"),
        "alternation": ([user, user], "two messages of role user follow one another: join them"),
    }
    for kind, (messages, told) in cases.items():
        if kind in family.refuses:
            with pytest.raises(
                ValueError, match=f"^the chat template does not take these messages: .*; .*{told}$"
            ) as raised:
                opened(made, {"messages": messages})
            assert "\n" not in str(raised.value)
        else:
            assert "Hi" in opened(made, {"messages": messages})
    if "alternation" in family.refuses:
        with pytest.raises(ValueError, match="the first message must be the user's"):
            opened(made, {"messages": [answer, user]})


def test_a_system_message_of_the_config_that_the_template_refuses_names_the_key():
    made = encoder(FAMILIES["gemma"], system="Be brief.")
    with pytest.raises(
        ValueError, match=r"System role not supported; .*: leave model.system out, and put its text into"
    ):
        opened(made)


def test_the_adapter_drops_such_prompts_with_the_reason(policy):
    made = policy(FAMILIES["gemma"])
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert "put that text into the first message" in made.usable(Prompt("p", "Hi", {"messages": told}))
    assert made.usable(Prompt("p", "Hi")) is None


def test_a_role_that_a_template_does_not_know_is_named():
    made = encoder(FAMILIES["mistral"])
    with pytest.raises(ValueError, match=r"it knows no role 'tool'$"):
        made.reply_ids([{"role": "tool", "content": "3"}], made.turns.ends.end)


# -------------------------------------------------------------------- from `mmrl plan` already


@pytest.mark.parametrize(
    ("messages", "code", "told"),
    [
        (
            ["system", "user"],
            2,
            r"2 of 2 prompts cannot be used, first '1': the chat template .*role system",
        ),
        (["user", "user"], 2, "2 of 2 prompts cannot be used.* join them"),
        (["user"], 0, ""),
    ],
)
def test_a_plan_says_what_the_template_refuses(main, monkeypatch, tmp_path, messages, code, told):
    monkeypatch.setattr(tiny, "build_tokenizer", lambda *args: FAMILIES["gemma"].tokenizer())
    (tmp_path / "p.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": r, "content": "Hi"} for r in messages], "answer": n}) + "\n" for n in "12"
        )
    )
    config = f"""
modality: text
model: {{path: built, build: {{hidden: 16, layers: 1, heads: 2, kv_heads: 1}}}}
data: {{prompts: {tmp_path}/p.jsonl}}
rewards: [{{name: exact.match}}]
stages: [{{kind: grpo, steps: 1}}]
"""
    (tmp_path / "c.yaml").write_text(config)
    found, _, err = main("plan", tmp_path / "c.yaml")
    assert (found != 0) == bool(code), err
    assert re.search(told, err) and len(err.strip().splitlines()) <= 1


def test_a_plan_tells_how_many_prompts_are_refused(main, monkeypatch, tmp_path):
    monkeypatch.setattr(tiny, "build_tokenizer", lambda *args: FAMILIES["gemma"].tokenizer())
    rows = [{"messages": [{"role": role, "content": "Hi"}], "answer": "5"} for role in ("user", "assistant", "user")]
    rows[1]["messages"].append({"role": "user", "content": "Ho"})
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = "model={path: built, build: {hidden: 16, layers: 1, heads: 2, kv_heads: 1}}"
    code, out, err = main("plan", "text/tiny", model, f"data={{prompts: {tmp_path}/p.jsonl}}", "eval={}")
    assert code == 0, err
    assert "1 of 3 prompts cannot be used, first '2': " in out + err
