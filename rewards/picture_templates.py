"""What judges of pictures are told, in our own words: templates in which $caption is filled in.

The form of the answer is the one that the models were trained to give. Their own prompts are in their authors'
repository; for the published scale give those (option `template`).
"""

POINT = """\
A picture was generated from a caption. Judge two things: how well it shows what the caption says (objects, their
attributes and relations), and how good it looks (clear, detailed, free of flaws, pleasing).

Name the elements of the caption one by one as "element (type): value", where value is 1 if it is there and 0 if not.
Then give one mark from 1 (bad) to 5 (excellent) in a last line
Final Score: X

Text Caption: [$caption]
"""

AXES = """\
A picture was generated from a caption. Mark it from 1 (bad) to 5 (excellent) on each axis: $axes.

Alignment is how well it shows what the caption says, coherence how free it is of distortions and impossible things,
style how pleasing it is whatever the caption says. Answer with one line for each axis and nothing else, as in
Alignment Score (1-5): X

Text Caption: [$caption]
"""

SHARES = """\
Two pictures, Image 1 and Image 2, were generated from one caption. Compare them on each axis: $axes.

Alignment is how well a picture shows what the caption says, coherence how free it is of distortions and impossible
things, style how pleasing it is. On each axis the two share 1.0: the better one has more, and the two numbers sum to
exactly 1.0. Answer for each axis in this form, and with nothing else:

Alignment Score:
 Image 1: X
 Image 2: Y

Text Caption: [$caption]
"""

THINK = """\
Two pictures, Image 1 and Image 2, were generated from the caption: $caption

Find out which is better. Inside <think> and </think>, mark both from 1 to 10 with a short reason on semantic
consistency (what the caption says is there), aesthetics (composition, colours) and authenticity (real, right in its
details), and on up to two more dimensions that matter here; then add up each picture's marks. After that, decide:
<answer>Image 1 is better</answer> or <answer>Image 2 is better</answer>, with nothing else in the tags.
"""

FLEX = """\
Compare two generated pictures, Image 1 and Image 2, by what the prompt asks for.

Use three categories: semantic alignment and accuracy, image quality and realism, aesthetics and artistry; one more if
the prompt has a trait of its own. In each choose three to five dimensions in which the two differ, and share 10 points
between the pictures in every one, with a reason for each.

Prompt: [$caption]

Answer with one JSON object and nothing else:
{"prompt": "...", "categories": [{"name": "...", "dims": [{"name": "...", "reason_1": "...", "reason_2": "...",
"score_1": 0, "score_2": 10}], "cat_reason": "...", "cat_winner": "Image 1 or Image 2"}], "reason": "...",
"winner": "Image 1 or Image 2"}
"""

THEME = """\
Here are two parts of one picture, made for the theme: "$theme". Are they consistent with each other in style, logic and
identity? Answer "Yes" or "No" first, then give your reasons.
"""

CRITERION = """\
Do these images meet the following criterion? $criterion
Answer Yes or No first, then give your reasons.
"""

LAYOUT = """\
Is this picture laid out as a grid of $rows rows and $columns columns, each cell a picture of its own?
Answer Yes or No.
"""

KEPT = """\
The second picture was made from the first by this instruction: "$instruction". Leave aside what it changes: is the rest
the same in style, logic and identity? Answer "Yes" or "No" first, then give your reasons.
"""

FOLLOWED = """\
The second picture was made from the first by this instruction: "$instruction". Was it carried out
correctly? Answer "Yes" or "No" first, then give your reasons.
"""
