"""Which candidate a judge names, in its answer and in the words before it: tables read by hand."""

from __future__ import annotations

from every import every

from mmrl.rewarding.verdicts import leaning, read_verdict


@every(
    "text, n, said",
    [
        ("<think>so</think><answer>1</answer>", 2, 0),
        ("<think>so</think><answer>2</answer>", 2, 1),
        ("<answer> 2\n</answer>", 2, 1),
        ("<answer>Response 2.</answer>", 2, 1),
        ("<answer>**2**</answer>", 2, 1),
        ("<answer>[3]</answer>", 4, 2),
        ("thoughts</think>\n<answer>1</answer>", 2, 0),
        ("<think>I gave <answer>2</answer> first</think><answer>1</answer>", 2, 0),
        ("<answer>3</answer>", 2, "verdict 3 of 2 responses"),
        ("<answer>0</answer>", 2, "verdict 0 of 2 responses"),
        ("<answer>-1</answer>", 2, "a verdict that names no response: '-1'"),
        ("<answer>1.5</answer>", 2, "a verdict that names no response: '1.5'"),
        ("<answer>1 or 2</answer>", 2, "a verdict that names no response: '1 or 2'"),
        ("<answer>not 1</answer>", 2, "a verdict that names no response: 'not 1'"),
        ("<answer>tie</answer>", 2, "a verdict that names no response: 'tie'"),
        ("<answer></answer>", 2, "a verdict that names no response: ''"),
        ("<answer>1</answer><answer>1</answer>", 2, "2 verdicts"),
        ("<answer>1</answer> or <answer>2</answer>", 2, "2 verdicts"),
        ("Response 1 is better.", 2, "no verdict"),
        ("<answer>1", 2, "no verdict"),
        ("", 2, "no verdict"),
        ("<think>on and on <answer>1</answer>", 2, "no verdict: no end of its thought"),
        # an answer that is begun and has no end is a second verdict; a tag that is only spoken of is none
        ("<answer>1 <answer>2</answer>", 2, "2 verdicts"),
        ("<answer>1</answer>, no: <answer>2", 2, "2 verdicts"),
        ("<answer>1</answer><answer>Response 2 is", 2, "2 verdicts"),
        ("In <answer> tags: <answer>1</answer>", 2, 0),
        ("<answer>1</answer> is my <answer>.", 2, 0),
        # what a thought parts is not joined
        ("<answer>1<think>or</think>2</answer>", 12, "a verdict that names no response: '1\\n2'"),
        ("<ans<think>so</think>wer>1</answer>", 2, "no verdict"),
        ("<answer>1<think>so</think></answer>", 2, 0),
        # numbers in other signs
        ("<answer>２</answer>", 2, 1),
        ("<answer>²</answer>", 2, "a verdict that names no response: '²'"),
        (
            "<answer>Response 2 is not better</answer>",
            2,
            "a verdict that names no response: 'Response 2 is not better'",
        ),
        ("<answer>1</answer>0", 12, 0),
        ("<answer>10</answer>", 12, 9),
    ],
)
def test_the_verdict_of_an_answer(text, n, said):
    assert read_verdict(text, n) == said
    assert type(read_verdict(text, n)) is type(said)


FIRST, SECOND = 0, 1


@every(
    "words, said",
    [
        ("Response 2 is better.", SECOND),
        ("Response 2 is better than Response 1.", SECOND),
        ("Compared with Response 1, Response 2 is clearly the better one.", SECOND),
        ("Response 1 outperforms Response 2.", FIRST),
        ("Response 1 is worse than Response 2.", SECOND),
        ("Response 1 is worse.", SECOND),
        ("I prefer Response 1 over Response 2.", FIRST),
        ("I would choose the second response.", SECOND),
        ("The better response is Response 1.", FIRST),
        ("The first one wins.", FIRST),
        ("Overall, the latter is preferable.", SECOND),
        ("The winner is 2.", SECOND),
        ("I choose 1.", FIRST),
        ("Verdict: Response 2", SECOND),
        ("**Response 1** is superior.", FIRST),
        ("Response 2 gets my vote.", SECOND),
        ("Response 2 should be chosen.", SECOND),
        ("Answer 1 is right. So, answer 1.", FIRST),
        ("Therefore, Response 1 is more accurate.", FIRST),
        ("Response 1 misreads the sign, making it inferior to Response 2.", SECOND),
        ("Overall, Response 2 aligns better with the picture than Response 1.", SECOND),
        ("Response 1 gets the colour wrong, making Response 2 the better choice.", SECOND),
        ("Between Response 1 and Response 2, the first is better.", FIRST),
        ("Response 1 has the edge.", FIRST),
        ("The final answer is Response 2.", SECOND),
        ("Response 1 is better written, but Response 2 is right, so I choose Response 2.", SECOND),
        ("Although Response 1 is the better read, Response 2 is the best answer.", SECOND),
        ("Response 1 is better in style. Response 2 is better overall.", SECOND),
        ("I prefer Response 2, as Response 1 is worse.", SECOND),
        ("Image 1 is better.", FIRST),
        ("Antwort 2 ist besser als Antwort 1.", SECOND),
        ("La réponse 1 est meilleure que la réponse 2.", FIRST),
        ("La respuesta 2 es mejor que la respuesta 1.", SECOND),
        ("回答2比回答1更好。", SECOND),
        ("回答 1 优于回答 2。", FIRST),
        ("因此我选择第二个。", SECOND),
        ("如果看图片，回答2更好。", SECOND),
        ("I don't like Response 1, so Response 2 is better.", SECOND),
        ("Response 1 is not clear and Response 2 is better.", SECOND),
        ("If we look at the picture, Response 2 is better.", SECOND),
        ("Which one is better? Response 2 is better.", SECOND),
        ("Between Response 2 and Response 1, I choose Response 1.", FIRST),
        ("Response 2 would be the better choice.", SECOND),
        ("Response 2 gives the better answer.", SECOND),
        ("Response 1 has the better answer overall.", FIRST),
        ("There is no doubt that Response 2 is better.", SECOND),
        ("I prefer Response 2 and not Response 1.", SECOND),
        # what is turned round, doubted, asked, supposed, said of both, or of one side
        ("Response 1 is less preferred.", None),
        ("Response 1 is the least preferable.", None),
        ("The least preferred is Response 1.", None),
        ("Response 1 is the second best.", None),
        ("Response 1 fails to be better.", None),
        ("Response 1 is far from better.", None),
        ("I don't think Response 1 is better.", None),
        ("I would not say that Response 1 is better.", None),
        ("I cannot say that Response 1 is better.", None),
        ("It is not clear that Response 1 is better.", None),
        ("I doubt that Response 1 is better.", None),
        ("It is hard to say whether Response 1 is better.", None),
        ("Nobody would call Response 1 better.", None),
        ("It is false that Response 1 is better.", None),
        ("It would be wrong to choose Response 1.", None),
        ("Is Response 1 better than Response 2?", None),
        ("Which is better, Response 1 or Response 2?", None),
        ("回答1更好吗？", None),
        ("Response 1 could be better.", None),
        ("Response 1 would have been better with a number.", None),
        ("If Response 1 is better, it must be true.", None),
        ("I have to choose between Response 1 and Response 2.", None),
        ("I need to pick Response 1 or Response 2.", None),
        ("Both Response 1 and Response 2 are better than nothing.", None),
        ("Response 1 is better written.", None),
        ("Response 1 needs better grounding.", None),
        ("Response 1 has the best colours.", None),
        # undecided
        ("", None),
        ("Response 1 says a cat. Response 2 says a dog.", None),
        ("Response 1 is more detailed.", None),
        ("Response 1 is not better.", None),
        ("I would not choose Response 1.", None),
        ("Neither is better.", None),
        ("Response 2 is better. In the end they are equally good.", None),
        ("Both have their merits.", None),
        ("So, Response 1 and Response 2.", None),
        ("The correct answer is 2.", None),
        ("Overall, Response 1 is less accurate.", None),
        ("Therefore, Response 1 does not answer.", None),
        ("Response 3 is better.", None),
        ("There are 2 cats, which is better.", None),
    ],
)
def test_the_verdict_in_the_words_of_a_reasoning(words, said):
    assert leaning(words, 2) == said
    assert leaning(f"Response 1 is better at first sight.\n{words or 'They are equally good.'}", 2) in (said, FIRST)


@every("word", ["better", "best", "worse", "superior", "preferable"])
def test_exchanging_the_numbers_exchanges_the_verdict(word):
    one, other = f"Response 1 is {word} than response 2.", f"Response 2 is {word} than response 1."
    assert {leaning(one, 2), leaning(other, 2)} == {0, 1}


def test_of_more_than_two_the_worse_one_says_nothing():
    assert leaning("Response 3 is better.", 4) == 2
    assert leaning("Response 3 is worse.", 4) is None


@every("words", ["Response 1 is better. " * 5000, "response " * 50_000, "1 " * 50_000, "no " * 50_000])
def test_long_texts_take_no_long_time(words):
    assert leaning(words, 2) in (0, None)
    assert isinstance(read_verdict(f"<answer>{words}", 2), str)
