"""Rounds: a feedback function, turn limits by the training step, and a game that can be won by its hints."""

from __future__ import annotations

import pytest
from every import every

from mmrl.environments.load import load_environment
from mmrl.environments.rounds import Rounds, RoundsOptions


def guessing(**options):
    return Rounds(RoundsOptions(feedback="guess", **options))


def test_hints_lead_to_the_number_in_the_logarithm_of_the_range(play):
    for secret in range(1, 64):
        game = play(guessing(), "Guess from 1 to 63.", secret=secret)
        low, high, reply = 1, 63, None
        while low <= high:
            guess = (low + high) // 2
            reply = game.say(f"I say {guess}.")
            if reply is None:
                break
            low, high = (guess + 1, high) if reply.text == "Higher." else (low, guess - 1)
        assert game.info["found"] == 1
        assert game.info["rounds"] <= 6


def test_listing_all_numbers_is_no_guess(play):
    game = play(guessing(), "?", secret=3)
    assert game.say("1 2 3 4 5").text == "Say one whole number."
    assert game.say("<answer>3</answer>") is None
    assert game.info == {"limit": 8, "rounds": 2, "found": 1, "guesses": 1, "unreadable": 1}


def test_the_last_turn_is_looked_at_before_the_turns_are_spent(play):
    for last, found in (("3", 1), ("4", 0)):
        game = play(guessing(max_turns=2), "?", secret=3)
        assert game.say("9").text == "Lower."
        assert game.say(last) is None
        assert (game.info["found"], game.info["rounds"]) == (found, 2)


@pytest.mark.parametrize(("step", "limit"), [(None, 20), (0, 2), (9, 2), (10, 4), (19, 4), (20, 6), (500, 6)])
def test_the_turns_grow_with_the_training_step(play, step, limit):
    game = play(guessing(max_turns=20, rounds=[2, 4, 6], every=10), "?", secret=1, step=step)
    said = 1
    while game.say("2") is not None:
        said += 1
    assert said == game.info["limit"] == limit


def test_a_feedback_function_of_your_own(play, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def praise(episode):\n    n = len(episode.said)\n    return None if n > 2 else f'{n}: more'\n",
        encoding="utf-8",
    )
    game = play(load_environment({"name": "rounds", "feedback": f"{tmp_path}/mine.py:praise", "system": "Go on."}), "?")
    assert game.context.messages[0] == {"role": "system", "content": "Go on."}
    assert [game.say("x").text, game.say("x").text, game.say("x")] == ["1: more", "2: more", None]


@every("rounds", [[], [3, 0]])
def test_rounds_that_are_no_turns(rounds):
    with pytest.raises(ValueError, match="at least one number"):
        guessing(rounds=rounds)


def test_a_record_without_a_secret_is_named(play):
    with pytest.raises(ValueError, match="'q1' needs `secret`"):
        play(guessing(), "?", secret="3").say("3")


def test_feedback_may_quote_what_the_policy_wrote(play, tmp_path):
    """Also where that reads like a picture, of which it shows none."""
    (tmp_path / "echo.py").write_text("def echo(episode):\n    return 'You said ' + episode.said[-1]\n")
    game = play(Rounds(RoundsOptions(feedback=f"{tmp_path / 'echo.py'}:echo")), "?")
    assert game.say("an <image> of <|image_pad|>").text == "You said an < image > of < |image_pad|>"
