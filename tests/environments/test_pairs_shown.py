"""Candidates side by side: what is shown in which order, by whom it is decided, and what is no pair."""

from __future__ import annotations

from collections import Counter

import pytest
from every import every

from mmrl.environments.base import Episode
from mmrl.environments.load import load_environment
from mmrl.environments.pairs import Pairs, PairsOptions, order_of, showing
from mmrl.media import IMAGE
from mmrl.types import Candidate, Prompt

SHORT = PairsOptions(template="{question}|{responses}|{count}|{verdicts}", response="{number}:{answer}")


def pair(*candidates, text="Which animal?", id="p", **record):
    return Prompt(id, text, {"prompt": text, "candidates": list(candidates), "shares": [1, 0], **record})


def opened(prompt, sizes=(), options=SHORT, **of):
    episode = Episode(prompt, sizes, **of)
    context = Pairs(options).open(episode)
    return context.messages[-1]["content"], [view.picture for view in context.views], episode.info


def test_the_question_and_the_candidates_stand_in_the_order_that_is_noted():
    text, views, info = opened(pair("a cat", "a dog", order=[1, 0]))
    assert text == "Which animal?|1:a dog\n\n2:a cat|2|<answer>1</answer> or <answer>2</answer>"
    assert views == [] and info == {"order": [1, 0]}


def test_an_answer_may_be_empty():
    text, _, _ = opened(pair("a cat", {"answer": ""}, order=[0, 1]))
    assert text.split("|")[1] == "1:a cat\n\n2:"


def test_more_than_two():
    text, _, _ = opened(pair("a", "b", "c", order=[2, 0, 1]))
    assert text.split("|")[1:] == [
        "1:c\n\n2:a\n\n3:b",
        "3",
        "<answer>1</answer>, <answer>2</answer> or <answer>3</answer>",
    ]


def test_the_template_that_ships_says_all_that_a_judge_must_know():
    text, _, _ = opened(pair("a cat", "a dog"), options=PairsOptions())
    for words in ("Which animal?", "a cat", "a dog", "<think></think>", "<answer>1</answer> or <answer>2</answer>"):
        assert words in text
    assert text.index("a cat") < text.index("a dog") and "{" not in text


# -------------------------------------------------------------------- the order


def test_in_training_each_sample_draws_its_own_and_each_order_comes_as_often():
    prompt = pair("a", "b", "c")
    drawn = [order_of(prompt, 3, seed, 0, training=True) for seed in range(6000)]
    counts = Counter(drawn)
    assert len(counts) == 6 and max(abs(n - 1000) for n in counts.values()) < 130  # 4.5 standard deviations
    assert [order_of(prompt, 3, seed, 5, training=True) for seed in range(20)] == drawn[:20]  # by the seed alone


@every("count", [2, 3, 4])
def test_in_evaluation_each_candidate_stands_in_each_place_equally_often(count):
    for name in "pqrst":
        orders = [order_of(pair(id=name), count, seed, seed, training=False) for seed in range(2 * count)]
        for place in range(count):
            assert Counter(order[place] for order in orders) == dict.fromkeys(range(count), 2)


def test_one_sample_a_pair_does_not_show_all_pairs_as_the_file_has_them():
    first = [order_of(pair(id=str(n)), 2, 7, 0, training=False) for n in range(400)]
    assert 150 < first.count((0, 1)) < 250


def test_where_nothing_is_sampled_it_is_the_records():
    assert order_of(pair("a", "b"), 2, None, None, training=False) == (0, 1)


@every("training", [True, False])
def test_the_records_order_stands_above_all(training):
    for seed in range(8):
        assert order_of(pair("a", "b", order=[1, 0]), 2, seed, seed, training=training) == (1, 0)


@every("order", [[0], [0, 0], [1, 2], [True, False], "01", [0.0, 1.0], {}])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(ValueError, match=r"'p' has `order` .* must have each of 0 to 1 once"):
        opened(pair("a", "b", order=order))


# -------------------------------------------------------------------- pictures


def test_pictures_of_candidates_follow_the_questions_and_their_candidates():
    prompt = pair({"answer": "left", "images": ["x.png"]}, {"images": ["y.png", "z.png"]}, order=[1, 0])
    text, views, _ = opened(prompt, [(4, 4), (4, 4)])
    assert text.startswith(f"{IMAGE}{IMAGE}Which animal?|1:{IMAGE}{IMAGE}\n\n2:{IMAGE}\nleft|")
    assert views == [0, 1, 3, 4, 2]


def test_marks_say_where_a_candidates_pictures_stand():
    text, views, _ = opened(pair({"answer": f"see {IMAGE} here", "images": ["x"]}, "none", order=[1, 0]))
    assert text.split("|")[1] == f"1:none\n\n2:see {IMAGE} here" and views == [0]
    with pytest.raises(ValueError, match=r"'p': candidate 0 has 2 <image> marks and 1 pictures"):
        opened(pair({"answer": IMAGE * 2, "images": ["x"]}, "none"))


def test_a_question_behind_the_responses_has_its_pictures_there():
    options = PairsOptions(template="{responses} {question}", response="{answer}")
    text, views, _ = opened(pair({"images": ["x"]}, {"images": ["y"]}), [(4, 4)], options)
    assert text == f"{IMAGE}\n\n{IMAGE} {IMAGE}Which animal?" and views == [1, 2, 0]


def test_nothing_in_a_candidates_words_stands_for_a_picture_or_ends_the_turn():
    text, views, _ = opened(pair(f"a {IMAGE} cat<|im_end|>", "{question}"))
    assert text.count(IMAGE) == 0 and "<|im_end|>" not in text and views == [] and text.count("Which animal?") == 1


# -------------------------------------------------------------------- forms


def test_answers_and_questions_may_be_messages():
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go"},
    ]
    said = [{"role": "assistant", "content": [{"type": "text", "text": "gone"}]}]
    text, _, _ = opened(pair({"answer": said}, {"answer": [*said, *talk[:1]]}, messages=talk))
    assert text.split("|")[:2] == [
        "[user]\nHi\n\n[assistant]\nYes?\n\n[user]\nGo",
        "1:gone\n\n2:[assistant]\ngone\n\n[user]\nHi",
    ]


@every(
    "candidates, said",
    [
        (None, "two or more; it is NoneType"),
        (["a"], "a list of 1"),
        ("ab", "it is str"),
        (["a", 3], "candidate 1 is 3"),
        (["a", {"answer": 3}], "candidate 1 is"),
        (["a", {}], "candidate 1 has neither an answer nor a picture"),
        (["a", {"answer": "b", "images": "x.png"}], "`images` of candidate 1"),
        (["a", {"answer": [{"role": "assistant"}]}], "candidate 1: a message's content"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(candidates, said):
    with pytest.raises(ValueError, match="'p'.*" + said):
        opened(Prompt("p", "Which?", {"candidates": candidates}))


@every(
    "options, said",
    [
        ({"template": "{question}"}, "has {responses} 0 times"),
        ({"template": "{question}{question}{responses}"}, "has {question} 2 times"),
        ({"template": "{question}{responses}{answer}"}, "has {answer}; it may have"),
        ({"response": "{number}"}, "has {answer} 0 times"),
    ],
)
def test_a_template_without_its_marks_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        load_environment({"name": "pairs", **options})


def test_the_system_message_is_the_options():
    context = showing(pair(), [Candidate("a"), Candidate("b")], [0, 1], 0, PairsOptions(system="Judge."))
    assert [m["role"] for m in context.messages] == ["system", "user"]


def test_it_is_over_after_one_turn(play):
    game = play(load_environment("pairs"), candidates=["a", "b"])
    assert game.say("<answer>1</answer>") is None
