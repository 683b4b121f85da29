"""Every family reads what transformers' own processor and forward read; others are refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmrl.media import AUDIO, IMAGE
from mmrl.modalities.audio.adapter import AudioAdapter
from mmrl.modalities.audio.config import ModelConfig
from mmrl.modalities.audio.families import FAMILIES, REFUSED
from mmrl.modalities.audio.tiny import KINDS
from mmrl.modalities.load import modality_of
from mmrl.types import Prompt

RATE = 16_000
OMNI = ["qwen2_5_omni", "qwen3_omni_moe"]
# Hears more than one window of 2 s.
LONG = ["audioflamingo3", "voxtral", "qwen3_omni_moe"]
# Seconds of the sounds of each row of a batch; the windows of the tiny models are 2 s.
ROWS = {
    "one": [0.7],
    "two": [1.13, 1.62],
    "two of less than a second": [0.3, 0.9],
    "none": [],
    "whole window": [2.0],
    "one frame": [400 / RATE],
}


def rows_of(kind: str) -> dict[str, list[float]]:
    rows = {name: row for name, row in ROWS.items() if len(row) < 2 or kind != "audioflamingo3"}
    if kind == "qwen3_omni_moe":  # whose tower hears a shorter one otherwise beside a longer: held below
        rows["two of less than a second"] = [0.5, 0.5]
    return rows | ({"several windows": [4.51]} if kind in LONG else {})


def rendered(policy, prompt: Prompt) -> str:
    """The chat of a prompt without marks, media first, as the model's own template writes it."""
    kinds = [("image", prompt.record.get("images", ())), ("audio", prompt.record["sounds"])]
    parts = [{"type": kind} for kind, some in kinds for _ in some]
    chat = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt.text}]}]
    own = policy.processor if policy.processor.chat_template else policy.tokenizer
    return own.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


def encoded(policy, prompt: Prompt, text: str = "") -> dict[str, torch.Tensor]:
    """What transformers' own processor makes of a prompt, or of the text that its template writes."""
    text, processor = text or rendered(policy, prompt), policy.processor
    sounds, images = [ref["array"] for ref in prompt.record["sounds"]], prompt.record.get("images")
    options = {"images": images} if images else {}
    name = type(processor).__name__
    if name == "VoxtralProcessor":  # whose call takes no sounds: they come through its own template, as files
        window = processor.feature_extractor.n_samples
        text = expanded(text, "[AUDIO]", [25 * -(-len(sound) // window) for sound in sounds])
        ids = policy.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        how = {"padding": True, "truncation": False, "pad_to_multiple_of": window, "return_tensors": "pt"}
        heard = processor._retrieve_input_features(sounds, window // 160, sampling_rate=RATE, **how) if sounds else None
        return dict(ids) | ({} if heard is None else {"input_features": heard})
    if name == "Qwen3OmniMoeProcessor" and len(sounds) > 1:
        # It pads sounds to the longest, and so gives a shorter one another last frame than it has alone.
        mark = processor.audio_token
        alone = [processor(text=[mark], audio=[sound], sampling_rate=RATE, return_tensors="pt") for sound in sounds]
        text = expanded(text, mark, [one["input_ids"].shape[1] for one in alone]).replace(mark, "<later>")
        made = dict(processor(text=[text], return_tensors="pt", **options))
        ids = policy.tokenizer("<later>", add_special_tokens=False).input_ids
        made["input_ids"] = replaced(made["input_ids"][0], ids, policy.family.audio_id)[None]
        frames = torch.nn.utils.rnn.pad_sequence([one["input_features"][0].T for one in alone], batch_first=True)
        real = torch.nn.utils.rnn.pad_sequence([one["feature_attention_mask"][0] for one in alone], batch_first=True)
        return made | {"input_features": frames.transpose(1, 2), "feature_attention_mask": real}
    return dict(processor(text=[text], audio=sounds or None, sampling_rate=RATE, return_tensors="pt", **options))


def expanded(text: str, mark: str, counts: list[int]) -> str:
    """A text with so many marks in the place of each."""
    first, *rest = text.split(mark)
    return first + "".join(mark * count + piece for count, piece in zip(counts, rest, strict=True))


def replaced(ids: torch.Tensor, run: list[int], other: int) -> torch.Tensor:
    """Ids with one other in the place of each run."""
    found, left = [], ids.tolist()
    while left:
        if left[: len(run)] == run:
            found, left = [*found, other], left[len(run) :]
        else:
            found, left = [*found, left[0]], left[1:]
    return torch.tensor(found)


def one_shot(policy, prompt: Prompt, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of `ids` behind a prompt by the plain model with its own processor, and the prompt's ids."""
    made = encoded(policy, prompt)
    before = made["input_ids"].shape[1]
    made["input_ids"] = torch.cat([made["input_ids"], ids[None]], 1)
    made["attention_mask"] = torch.ones_like(made["input_ids"])
    with torch.no_grad():
        logits = policy.model(**made).logits[0, before - 1 : -1].float()
    logits = (logits / policy.config.sampling.temperature).index_fill(1, torch.tensor(policy.banned), -torch.inf)
    return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0], made["input_ids"][0, :before]


def check(policy, samples) -> None:
    """Rollout and replay of samples, all in one batch, are a forward of each alone by transformers."""
    columns = torch.arange(max(len(s.trajectory.mask) for s in samples))
    with torch.no_grad():
        replayed = policy.logprobs(samples, columns).logp
    for sample, row in zip(samples, replayed):
        ids = sample.trajectory.tensors["ids"]
        wanted, before = one_shot(policy, sample.prompt, ids)
        assert torch.equal(sample.trajectory.tensors["prompt"], before), sample.prompt.id
        torch.testing.assert_close(sample.trajectory.logp, wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(row[: len(ids)], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_unequal_rows_is_a_forward_of_each_by_the_plain_model(shared, sung, ask, roll, kind):
    policy = shared(kind)
    prompts = [
        ask(f"Which of {name}", *(sung(10 * number + i, s) for i, s in enumerate(row)))
        for number, (name, row) in enumerate(rows_of(kind).items())
    ]
    samples = roll(policy, prompts)
    assert [len(s.media) for s in samples[::2]] == [len(row) for row in rows_of(kind).values()]
    check(policy, samples)


@pytest.mark.parametrize("kind", OMNI)
def test_a_row_may_hold_pictures_and_sounds(shared, sung, drawn, ask, roll, kind):
    """Behind a picture the positions of a sound are other ones; beside rows with either and with none."""
    policy = shared(kind)
    prompts = [
        ask("Both?", sung(1, 1.2), sung(2, 1.4), images=[drawn(1), drawn(2, (32, 64))]),
        ask("Seen?", images=[drawn(3)]),
        ask("Heard?", sung(3)),
        ask("Neither?"),
    ]
    samples = roll(policy, prompts)
    assert [type(m).__name__ for m in samples[0].media] == ["Media", "Media", "Heard", "Heard"]
    check(policy, samples)


@pytest.mark.parametrize("kind", OMNI)
def test_media_stand_where_they_are_marked(shared, sung, drawn, ask, roll, kind):
    """A sound, then a picture, then a sound: what the processor makes of the same order."""
    policy = shared(kind)
    text = f"First {AUDIO} then {IMAGE} and {AUDIO}?"
    prompt = ask(text, sung(1, 1.2), sung(2, 1.4), images=[drawn(1)])
    (sample,) = roll(policy, [prompt], n=1)
    p = policy.processor
    told = f"First {p.audio_bos_token}{p.audio_token}{p.audio_eos_token} then {p.vision_bos_token}{p.image_token}"
    told += f"{p.vision_eos_token} and {p.audio_bos_token}{p.audio_token}{p.audio_eos_token}?"
    whole = f"<|im_start|>user\n{told}<|im_end|>\n<|im_start|>assistant\n"
    made = encoded(policy, prompt, whole)
    assert torch.equal(sample.trajectory.tensors["prompt"], made["input_ids"][0])
    row = policy.reader.rows(sample)[0]
    lengths = made["feature_attention_mask"].sum(-1)
    wanted, _ = policy.model.get_rope_index(
        made["input_ids"],
        image_grid_thw=made["image_grid_thw"],
        attention_mask=torch.ones_like(made["input_ids"]),
        audio_seqlens=lengths,
    )
    assert torch.equal(policy.family.positions(row), wanted[:, 0].long())
    assert sample.turns[0].media == (0, 1, 2)


@pytest.mark.parametrize("kind", ["qwen2_audio", "qwen2_5_omni"])
def test_a_batch_of_transformers_own_is_the_same_batch(shared, sung, ask, roll, kind):
    """Padded on the left and in one forward of tower and decoder, as transformers' own training does it."""
    policy = shared(kind)
    prompts = [ask("Which", sung(1, 0.3), sung(2, 1.62)), ask("12+30="), ask("And this one", sung(3, 1.1))]
    samples = roll(policy, prompts, n=1)
    texts, sounds = [], []
    for sample in samples:
        texts.append(rendered(policy, sample.prompt))
        sounds += [ref["array"] for ref in sample.prompt.record["sounds"]]
    made = policy.processor(text=texts, audio=sounds, sampling_rate=RATE, padding=True, return_tensors="pt")
    said = torch.stack([s.trajectory.tensors["ids"] for s in samples])
    made["input_ids"] = torch.cat([made["input_ids"], said], 1)
    made["attention_mask"] = torch.cat([made["attention_mask"], torch.ones_like(said)], 1)
    with torch.no_grad():
        logits = policy.model(**made).logits[:, -said.shape[1] - 1 : -1].float() / 0.7
        wanted = logits.index_fill(2, torch.tensor(policy.banned), -torch.inf).log_softmax(-1)
        replayed = policy.logprobs(samples, torch.arange(said.shape[1])).logp
    torch.testing.assert_close(replayed, wanted.gather(2, said[..., None])[..., 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sound_reaches_the_answer(shared, sung, ask, kind):
    """Of one length, so that the ids are the same."""
    policy = shared(kind)
    said = [policy.given(ask("Which", sung(n), id="p"), ["a"])[0] for n in (1, 5)]
    assert torch.equal(*(s.trajectory.tensors["prompt"] for s in said))
    with torch.no_grad():
        first, other = (policy.logprobs([s], torch.arange(1)).logp for s in said)
    assert (first - other).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_has_as_many_features_as_placeholders(shared, sung, ask, kind):
    """Of what the tower really returns, for every length around the edges of windows, frames and chunks."""
    policy = shared(kind)
    family, shelf = policy.family, policy.sounds
    lengths = [400, 401, 479, 480, 1599, 1601, 15_999, 16_000, 16_001, 31_840, 31_999, 32_000]
    lengths += [32_001, 48_000, 63_999, 64_001] if kind in LONG else []
    for samples in lengths:
        prompt = ask("?", {"array": sung(1, 5.0)["array"][:samples], "sampling_rate": RATE}, id=str(samples))
        (view,) = policy.reader.opened(prompt, policy.reader.context(prompt)).media
        shown = shelf.get(prompt, view.view)
        with torch.no_grad():
            (features,) = family.features(policy.model, [shown.inputs])
        assert len(features.embeds) == shown.tokens == len(shown.expansion) == view.tokens, samples


def test_tokens_of_a_sound_are_those_of_the_released_models(shared, sung, ask):
    """25 a second of Qwen2-Audio, Qwen2.5-Omni and Audio Flamingo 3, 13 of Qwen3-Omni; Voxtral's whole windows."""
    second = {kind: shared(kind).family.tokens(RATE) for kind in KINDS}
    assert second == {
        "qwen2_audio": 25,
        "qwen2_5_omni": 25,
        "audioflamingo3": 25,
        "qwen3_omni_moe": 13,
        "voxtral": 25,  # of a window of 2 s; 375 of one of 30 s
    }


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_sound_are_the_same_in_any_company(shared, sung, ask, kind):
    """Qwen3-Omni's tower lets what stands behind a sound of less than a second into its last token."""
    policy = shared(kind)
    seconds = [0.2, 0.45, 1.3, 2.0]
    made = [policy.family.process(sung(n, s)["array"]) for n, s in enumerate(seconds)]
    with torch.no_grad():
        together = policy.family.features(policy.model, made)
        alone = [policy.family.features(policy.model, [one])[0] for one in made]
    for a, b in zip(together, alone):
        torch.testing.assert_close(a.embeds, b.embeds, rtol=0, atol=1e-5)


def test_all_that_a_processor_makes_is_carried_and_joined_along_its_declared_axis():
    from mmrl.modalities.audio.families.base import _along

    a, b = torch.ones(1, 2, 3), 2 * torch.ones(2, 2, 5)
    rows = _along([a, b], 0)
    assert rows.shape == (3, 2, 5) and rows[0, :, 3:].abs().sum() == 0 and rows[1:].unique().tolist() == [2.0]
    columns = _along([torch.ones(4, 3), torch.zeros(4, 2)], 1)
    assert columns.sum(0).tolist() == [4, 4, 4, 0, 0]


# -------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_policy_is_loaded_as_from_the_hub(adapter, sung, ask, roll, tmp_path, kind):
    policy = adapter(kind)
    policy.save(tmp_path)
    assert modality_of(tmp_path) == "audio"
    again = AudioAdapter(policy.config.at(tmp_path))
    prompt = ask("which", sung(1))
    first, second = (roll(p, [prompt], n=1)[0].trajectory for p in (policy, again))
    assert torch.equal(first.tensors["prompt"], second.tensors["prompt"])
    assert torch.equal(first.tensors["ids"], second.tensors["ids"])
    torch.testing.assert_close(first.logp, second.logp, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "part"), [("qwen2_5_omni", "token2wav"), ("qwen3_omni_moe", "code2wav")])
def test_of_an_omni_model_the_thinker_is_loaded(adapter, sung, ask, roll, tmp_path, kind, part):
    """A folder as the hub has it: the config of the whole, weights of the thinker under its name, others beside."""
    policy = adapter(kind)
    policy.save(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "thinker_config": told}))
    held = {f"thinker.{name}": value.contiguous() for name, value in policy.model.state_dict().items()}
    held |= {f"talker.{name}": torch.zeros(2) for name in ("a", "b")} | {f"{part}.c": torch.zeros(2)}
    (tmp_path / "model.safetensors").unlink()
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = AudioAdapter(policy.config.at(tmp_path))
    assert type(again.model) is type(policy.model)
    prompt = ask("which", sung(1))
    first, second = (roll(p, [prompt], n=1)[0].trajectory for p in (policy, again))
    assert torch.equal(first.tensors["ids"], second.tensors["ids"])
    torch.testing.assert_close(first.logp, second.logp, rtol=0, atol=1e-6)


OWN = """
from mmrl.modalities.audio.families.qwen_audio import Qwen2Audio


class Deaf(Qwen2Audio):
    def features(self, model, inputs):
        return [type(f)(0 * f.embeds) for f in super().features(model, inputs)]


class Nameless(Qwen2Audio):
    model_class = ""


class Other:
    pass
"""


def test_a_class_in_a_file_is_a_family(adapter, sung, ask, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    policy = adapter(family=f"{file}:Deaf", loud=True)
    said = [policy.given(ask("Which", sung(n), id="p"), ["a"])[0] for n in (1, 5)]
    first, other = (policy.logprobs([s], torch.arange(1)).logp for s in said)
    assert torch.equal(first, other)
    for name, told in (
        ("Other", "has no class Other that is a Family"),
        ("Gone", "has no class Gone"),
        ("Nameless", "says no model_class"),
    ):
        with pytest.raises(ValueError, match=told):
            adapter(family=f"{file}:{name}")
    with pytest.raises(ValueError, match=r"write auto, or path/file.py:Class"):
        adapter(family="mine")


@pytest.mark.parametrize("kind", [*REFUSED, "blip-2"])
def test_models_that_are_not_read_are_refused_by_name_before_their_weights(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))  # a folder without any weights
    why = f": {REFUSED[kind]}" if kind in REFUSED else ""
    with pytest.raises(ValueError, match=f"model_type '{kind}' is no family that hears and is known here{why}; there"):
        AudioAdapter(ModelConfig(path=str(tmp_path)))


def test_every_family_has_a_twin_and_every_twin_a_family(shared):
    made = {shared(kind).model.config.model_type for kind in KINDS}
    assert made | {kind.removesuffix("_thinker") for kind in made} == set(FAMILIES)


def test_a_processor_of_another_rate_is_refused(adapter):
    from mmrl.modalities.audio.families import Family

    policy = adapter()
    policy.processor.feature_extractor.sampling_rate = 8000
    with pytest.raises(ValueError, match="its processor wants 8000 Hz, and sounds are made at 16000 Hz"):
        Family(policy.model, policy.processor, policy.config)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qwen2_audio"])
def test_vllm_is_refused_where_nobody_saw_it_hear(adapter, kind):
    with pytest.raises(ValueError, match=r"engine\.name=vllm: \w+ hears, which was not tried with vLLM.*; leave it at"):
        adapter(kind, engine={"name": "vllm"})


def test_silence_is_heard(shared, ask, roll):
    policy = shared("qwen2_audio")
    (sample,) = roll(policy, [ask("?", {"array": np.zeros(8000, np.float32), "sampling_rate": RATE})], n=1)
    assert torch.isfinite(sample.trajectory.logp).all()
