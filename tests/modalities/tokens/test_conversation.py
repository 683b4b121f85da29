"""Conversations as ids: what is stored of them, what is trained, how they end (traps T6, T7 and T8)."""

from __future__ import annotations

import pytest
import torch

from mmrl.engines.base import Completion
from mmrl.environments.base import Context, Reply
from mmrl.media import View
from mmrl.training.check import check_adapter
from mmrl.types import Group, Prompt

PAD, END = 0, 2  # <|endoftext|> and <|im_end|> of the tiny tokenizer


class Again:
    """Says a few words after each of the first `rounds` turns; `keep` is how much of a turn stays."""

    def __init__(self, rounds=2, answers_cut=False, keep=None, **reply):
        self.rounds, self.answers_cut, self.keep, self.reply = rounds, answers_cut, keep, reply

    def open(self, episode):
        episode.info["limit"] = self.rounds
        return Context([{"role": "user", "content": episode.prompt.text}])

    def respond(self, episode):
        said = len(episode.said)
        return Reply(f"Again {said}!", keep=self.keep, **self.reply) if said <= self.rounds else None


class Script:
    """An engine that says given turns: texts with their end, an id or None for one that its budget cut."""

    def __init__(self, tokenizer, *turns):
        self.tokenizer, self.turns, self.asked = tokenizer, list(turns), []

    def generate(self, rows, n, sampling, seeds):
        made = []
        for row in rows:
            self.asked.append(row)
            made.append([self._turn(*self.turns.pop(0)) for _ in range(n)])
        return made

    def _turn(self, text, end):
        ids = self.tokenizer(text).input_ids + ([] if end is None else [end])
        return Completion(torch.tensor(ids), -torch.arange(1.0, len(ids) + 1), "length" if end is None else "eos")


def talk(policy, environment, *turns, text="Hi"):
    """(samples, engine) of one conversation in which the policy says `turns`."""
    policy.environment = environment
    engine = Script(policy.tokenizer, *turns)
    policy._own_engine = lambda *_: engine
    (group,) = policy.rollout([Group(Prompt("p", text), 0)], 1, 0, 0)
    return group.samples, engine


def pieces(policy, sample):
    """[(text, trained)] of the runs of equal flags behind the prompt, special tokens in sight."""
    found = []
    for i, trained in zip(sample.trajectory.tensors["ids"].tolist(), sample.trajectory.mask.tolist()):
        word = policy.tokenizer.decode([i])
        if found and found[-1][1] == trained:
            found[-1] = (found[-1][0] + word, trained)
        else:
            found.append((word, trained))
    return found


# -------------------------------------------------------------------- what is stored


def test_a_row_is_what_the_template_writes_of_the_whole_conversation(adapter):
    policy = adapter()
    (sample,), engine = talk(policy, Again(), ("one", END), ("two", END), ("three", END))
    said = [("user", "Hi"), ("assistant", "one"), ("user", "Again 1!"), ("assistant", "two"), ("user", "Again 2!")]
    whole = policy.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in [*said, ("assistant", "three")]], tokenize=False
    )
    stored = sample.trajectory.tensors
    assert policy.tokenizer.decode(torch.cat([stored["prompt"], stored["ids"]])) + "\n" == whole
    assert [(t.role, t.text) for t in sample.turns] == [*said, ("assistant", "three")]
    assert [t.trained for t in sample.turns] == [False, True, False, True, False, True]
    assert (sample.artifact, sample.stop) == ("one\ntwo\nthree", "eos")
    assert sample.info == {"limit": 2, "episode": 0}
    # Each turn is asked of exactly the ids that stand before it.
    assert [len(row) for row in engine.asked] == [
        len(policy.tokenizer(whole[: whole.index(word)]).input_ids) for word in ("one", "two", "three")
    ]


def test_what_the_policy_said_is_trained_and_has_the_sampler_s_log_probs(adapter):
    policy = adapter()
    (sample,), _ = talk(policy, Again(1), ("one", END), ("three", END))
    middle = "\n<|im_start|>user\nAgain 1!<|im_end|>\n<|im_start|>assistant\n"
    assert pieces(policy, sample) == [("one<|im_end|>", True), (middle, False), ("three<|im_end|>", True)]
    logp, mask = sample.trajectory.logp, sample.trajectory.mask
    assert logp[mask].tolist() == [-1, -2, -3, -4, -1, -2, -3, -4, -5, -6]
    assert (logp[~mask] == 0).all()
    assert sample.trajectory.tensors["step"][mask].tolist() == [0.0] * 4 + [1.0] * 6
    assert set(sample.trajectory.tensors["step"][~mask].tolist()) == {-1.0}
    assert len(sample.words) == len(mask) and "".join(sample.words) == "".join(
        text for text, _ in pieces(policy, sample)
    )


def test_nothing_that_was_said_is_encoded_again(adapter, roll, monkeypatch):
    """T6: after the first turn only words of the environment are encoded; in a replay, nothing."""
    policy = adapter(sampling={"max_tokens": 30})
    policy.environment = Again(2, answers_cut=True)
    engine, kind = policy._own_engine(), type(policy.tokenizer)
    allowed, encoded = ["Hi", "Ho"], []

    def guarded(original):
        def encode(self, text, *args, **options):
            assert any(words in text for words in allowed), text
            encoded.append(text)
            return original(self, text, *args, **options)

        return encode

    def generate(*args):
        allowed[:] = ["Again 1!", "Again 2!"]
        return engine.generate(*args)

    for name in ("__call__", "encode"):
        monkeypatch.setattr(kind, name, guarded(getattr(kind, name)))
    monkeypatch.setattr(policy, "_own_engine", lambda *_: type("Watched", (), {"generate": staticmethod(generate)}))
    samples = roll(policy, ("Hi", "Ho"), n=3)
    assert len(encoded) == 2 + 2 * 6 and all(len(s.turns) == 6 for s in samples)
    allowed.clear()
    for part in policy.slices(samples, 400):
        policy.logprobs([samples[r] for r in part.rows], part.columns)
    # It would have made a difference: sampled bytes are not the tokenizer's way to write their text.
    ids = [s.trajectory.tensors["ids"][s.trajectory.mask].tolist() for s in samples]
    monkeypatch.undo()
    assert any(policy.tokenizer(policy.reader.text(torch.tensor(i))).input_ids != i for i in ids)


# -------------------------------------------------------------------- how turns end


def test_a_turn_that_its_budget_cut_is_closed_by_an_end_that_is_not_trained(adapter):
    """T7: the forced EOS is the environment's, and the sample says that its last turn was cut."""
    policy = adapter()
    (sample,), _ = talk(policy, Again(1, answers_cut=True), ("one", None), ("two", None))
    assert [text for text, trained in pieces(policy, sample) if trained] == ["one", "two"]
    assert pieces(policy, sample)[1][0].startswith("<|im_end|>\n<|im_start|>user")
    assert sample.stop == "length"
    (sample,), _ = talk(policy, Again(1), ("one", None))  # nobody answers it
    assert (pieces(policy, sample), sample.stop) == ([("one", True)], "length")


@pytest.mark.parametrize("end", [PAD, END])
def test_every_eos_ends_a_turn_and_stands_there_once(adapter, end):
    """T8: two ids end a turn; the one that was sampled is trained, and no second one is put behind it."""
    policy = adapter()
    policy.stop_ids = (PAD, END)
    (sample,), _ = talk(policy, Again(1), ("one", end), ("two", end))
    ids, mask = sample.trajectory.tensors["ids"], sample.trajectory.mask
    assert ids[:4].tolist() == [*policy.tokenizer("one").input_ids, end] and mask[:4].all() and not mask[4]
    assert policy.tokenizer.decode(ids[4:6]) == "\n<|im_start|>"
    assert int(ids[-1]) == end and bool(mask[-1])
    assert sample.artifact == "one\ntwo"


@pytest.mark.parametrize("end", [PAD, END, None])
@pytest.mark.parametrize("skip", [True, False])
def test_what_is_behind_the_kept_part_of_a_turn_is_forgotten_at_ids(adapter, end, skip):
    policy = adapter(skip_special_tokens=skip)
    policy.stop_ids = (PAD, END)
    (sample,), engine = talk(policy, Again(1, answers_cut=True, keep=3), ("one, and more", end), ("two", END))
    first, between, _ = pieces(policy, sample)
    assert first == ("one", True) and between[0].startswith("<|im_end|>\n<|im_start|>user")
    assert sample.turns[1].text == "one" and sample.artifact.startswith("one\n")
    assert sample.trajectory.logp[:3].tolist() == [-1, -2, -3]
    assert policy.tokenizer.decode(engine.asked[1].ids) == rendered(policy, "Hi", "one", "Again 1!")


@pytest.mark.parametrize("end", [PAD, END])
@pytest.mark.parametrize("skip", [True, False])
def test_the_eos_right_behind_the_kept_part_stays_and_is_trained(adapter, end, skip):
    """The policy ended the turn where it was to end: it must learn to."""
    policy = adapter(skip_special_tokens=skip)
    policy.stop_ids = (PAD, END)
    (sample,), _ = talk(policy, Again(1, keep=3), ("one", end), ("two", END))
    ids, mask = sample.trajectory.tensors["ids"], sample.trajectory.mask
    assert ids[3] == end and mask[:4].all() and not mask[4] and policy.tokenizer.decode(ids[4:6]) == "\n<|im_start|>"


# -------------------------------------------------------------------- budgets


def rendered(policy, *texts):
    roles = ("user", "assistant") * len(texts)
    chat = [{"role": role, "content": text} for role, text in zip(roles, texts)]
    return policy.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def test_budgets_end_a_conversation_and_the_sample_says_which(adapter):
    turns = [("one", END), ("two", END), ("three", END)]
    policy = adapter(conversation={"max_turns": 2})
    (sample,), _ = talk(policy, Again(9), *turns)
    assert (sample.stop, sample.artifact) == ("turns", "one\ntwo")
    assert bool(sample.trajectory.mask[-1])  # an observation that nobody answers is not stored
    between = len("\nuser\nAgain 1!\nassistant\n") + 3  # a byte a token, and three special tokens
    first = len("one") + 1 + between
    for most, said in ((first, "one"), (first + 1, "one\ntwo")):  # the budget must leave a token for the next turn
        policy = adapter(conversation={"max_tokens": most})
        (sample,), _ = talk(policy, Again(1), *turns)
        assert (sample.artifact, sample.stop == "length") == (said, said == "one")
    opening = (
        len(rendered(policy, "Hi")) - 3 * len("<|im_start|>") + 3 + 2
    )  # two starts and an end, of 12 and 10 letters
    for context, said in ((opening + first + 11, "one"), (opening + first + 12, "one\ntwo")):
        policy = adapter(build={"context": context})  # which has no room, or just room, for another 12 tokens
        (sample,), _ = talk(policy, Again(1), *turns)
        assert (sample.artifact, sample.stop == "length") == (said, said == "one"), context


class Steps:
    """Each turn opens a new row with what was said before, as a number of letters."""

    answers_cut = True

    def open(self, episode):
        episode.memory["said"] = 0
        return Context([{"role": "user", "content": "0"}])

    def respond(self, episode):
        episode.memory["said"] += len(episode.said[-1])
        episode.info["letters"] = episode.memory["said"]
        words = episode.prompt.text * episode.memory["said"]
        return Reply(restart=Context([{"role": "user", "content": words}])) if episode.memory["said"] < 9 else None


def test_a_row_that_is_opened_anew_is_a_sample_of_its_own(adapter):
    policy = adapter()
    samples, _ = talk(policy, Steps(), ("one", END), ("four", END), ("seven", None), text="x")
    assert [s.artifact for s in samples] == ["one", "four", "seven"]
    assert [s.index for s in samples] == [0, 1, 2]
    assert [dict(s.info) for s in samples] == [{"letters": n, "episode": 0} for n in (3, 7, 12)]
    assert [policy.tokenizer.decode(s.trajectory.tensors["prompt"]) for s in samples] == [
        rendered(policy, text) for text in ("0", "xxx", "xxxxxxx")
    ]
    assert all(s.trajectory.mask.all() for s in samples)
    assert [s.stop for s in samples] == ["eos", "eos", "length"]
    # A row that does not fit ends the conversation with what is there.
    samples, _ = talk(adapter(max_prompt_tokens=30), Steps(), ("one", END), ("four", END), text="xxxx")
    assert [(s.artifact, s.stop) for s in samples] == [("one", "length")]


def test_rows_of_several_conversations_stay_in_their_group_and_order(adapter):
    """T10: conversations of different numbers of rows make unequal groups, each in the order of its conversations."""
    policy = adapter()
    policy.environment = Steps()
    words = ("one", "ten chars!", "nine char", "four", "sixsix", "seven..")
    engine = Script(policy.tokenizer, *((word, END) for word in words))
    policy._own_engine = lambda *_: engine
    groups = policy.rollout([Group(Prompt("a", "x"), 4), Group(Prompt("b", "y"), 7)], 2, 0, 0)
    assert [(g.index, [s.artifact for s in g.samples]) for g in groups] == [
        (4, ["one", "sixsix", "ten chars!"]),
        (7, ["nine char", "four", "seven.."]),
    ]
    assert [[s.info["episode"] for s in g.samples] for g in groups] == [[0, 0, 1], [0, 1, 1]]
    assert [[s.index for s in g.samples] for g in groups] == [[0, 1, 2], [0, 1, 2]]


# -------------------------------------------------------------------- what is trained


def test_observations_have_no_log_prob_and_no_gradient(adapter):
    """T7: the gradient is that of transformers' own log-probs of the policy's tokens alone."""
    policy = adapter(build={"layers": 2})
    samples = talk(policy, Again(2, answers_cut=True), ("one", END), ("two", None), ("three", END))[0]
    samples += talk(policy, Again(1), ("yes", END), ("no", END))[0]
    columns = torch.arange(max(len(s.trajectory.mask) for s in samples))
    logp = policy.logprobs(samples, columns).logp
    parameters = list(policy.trainable_parameters().values())
    wanted = []
    for row, sample in zip(logp, samples):
        stored, mask = sample.trajectory.tensors, sample.trajectory.mask
        ids = torch.cat([stored["prompt"], stored["ids"]])
        dense = policy.model(ids[None]).logits[0, len(stored["prompt"]) - 1 : -1].log_softmax(-1)
        own = dense.gather(1, stored["ids"][:, None])[:, 0]
        torch.testing.assert_close(row[: len(mask)][mask], own[mask], rtol=0, atol=1e-5)
        assert (row[: len(mask)][~mask] == 0).all()
        wanted.append(own[mask].sum())
    silent = torch.cat([row[: len(s.trajectory.mask)][~s.trajectory.mask] for row, s in zip(logp, samples)]).sum()
    for g in torch.autograd.grad(silent, parameters, retain_graph=True):
        assert not g.any()
    made = torch.autograd.grad(logp.sum(), parameters)
    for a, b in zip(made, torch.autograd.grad(sum(wanted), parameters)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_contract_holds_for_conversations(adapter):
    policy = adapter()
    policy.environment = Again(2, answers_cut=True)
    prompts = [Prompt(str(i), text) for i, text in enumerate(["12+30=", "a", "What is three times five?"])]
    assert [(r.name, r.detail) for r in check_adapter(policy, prompts) if not r.passed] == []


# -------------------------------------------------------------------- what cannot be


def test_pictures_and_words_without_a_template_are_refused(adapter):
    with pytest.raises(ValueError, match="shows pictures, which this modality does not read"):
        talk(adapter(), Again(1, views=[View()]), ("one", END))
    with pytest.raises(ValueError, match="a conversation needs a chat template"):
        talk(adapter(chat="off"), Again(1), ("one", END))


def test_answers_of_others_with_ids_that_are_never_sampled_are_refused(adapter):
    policy = adapter()
    letter = policy.tokenizer("G").input_ids[0]
    policy.banned = (letter, 300)
    with pytest.raises(ValueError, match=rf"prompt 'p': answer 1 has the token 'G' \({letter}\).*take it out"):
        policy.given(Prompt("p", "Hi"), ["fine", "A G"])
    with pytest.raises(ValueError, match=r"answer 0 has the token without a text \(300\)"):
        policy.given(Prompt("p", "Hi"), [[5, 300, 2]])


def test_turns_of_given_answers_must_be_as_many_as_the_environment_wants(adapter):
    policy = adapter()
    policy.environment = Again(1)
    (sample,) = policy.given(Prompt("p", "Hi"), [["one", "two"]])
    assert [text for text, trained in pieces(policy, sample) if trained] == ["one<|im_end|>", "two<|im_end|>"]
    for turns, told in ((["one"], "wants more"), (["one", "two", "three"], "ended before")):
        with pytest.raises(ValueError, match=f"prompt 'p': answer 0 has {len(turns)} turns, its environment {told}"):
            policy.given(Prompt("p", "Hi"), [turns])
