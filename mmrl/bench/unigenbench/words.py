"""What the judge is told, in our own words; the form of the answer is the benchmark's, which its judges learned.

The benchmark's own wording is in its authors' repository (eval/src/eval_common.py): for published scores give that, as
a template and as definitions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmrl.bench.unigenbench.reading import Asked
from mmrl.config import ConfigError
from mmrl.near import near, short
from mmrl.share import resolve

EN = """\
A picture was drawn from a text. Check it against test points, each by itself. Go by what can be seen in the picture: a
point that cannot be seen, or of which you are not sure, is not met.

The text: {prompt}

The test points, in this order: {testpoint}

What such points are about:
{explanation}

What each of them asks of this picture:
{test_explanation}

Write for each test point, in that order, what the picture shows of it, and then its mark: 1 where the picture meets it
and 0 where it does not. Both lists have exactly one entry for each test point. Answer in this form and with nothing
else:

<description>
<checkpoint>{testpoint}</checkpoint>
<analysis>["what is seen of the first point", "of the second", ...]</analysis>
<score>[a 0 or a 1 for each point]</score>
</description>
"""

ZH = """\
下面这张图片是根据一段文字画出来的。请逐一检查各个考点，每个考点单独判断。
只以图片中看得到的内容为准：看不到的，或者无法确定的，一律算不满足。

文字：{prompt}

考点（按此顺序）：{testpoint}

各类考点的含义：
{explanation}

每个考点对这张图片的具体要求：
{test_explanation}

请按上面的顺序，先写出图片中与每个考点有关的内容，再给出分数：满足为1，不满足为0。
两个列表都必须与考点一一对应。
只按下面的格式回答，不要写其他内容：

<description>
<checkpoint>{testpoint}</checkpoint>
<analysis>["第一个考点看到的内容", "第二个考点看到的内容", ...]</analysis>
<score>[每个考点一个0或1]</score>
</description>
"""

TEMPLATES: Mapping[str, str] = {"en": EN, "zh": ZH}

DEFINITIONS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "Style": "the look that is asked for: an art, a painter, a kind of photograph, a school of design",
        "World Knowledge": "things that one has to know: people, buildings, facts of a field, sayings of the net",
        "Attribute - Quantity": "as many things as the text says, three and more above all",
        "Attribute - Expression": "a face that shows a feeling, and not just moves",
        "Attribute - Material": "what something is made of, and how its surface looks",
        "Attribute - Size": "how large, tall, long, thick or wide the subject is",
        "Attribute - Shape": "the form of something",
        "Attribute - Color": "the colour of something",
        "Action - Hand (Character/Anthropomorphic)": "what hands do, with whole hands and the right number of fingers",
        "Action - Full-body (Character/Anthropomorphic)": "what a person or a thing like one does with the whole body",
        "Action - Animal": "what an animal does",
        "Action - Contact Interaction": "things or beings that touch one another in what they do",
        "Action - Non-contact Interaction": "things or beings that act on one another from afar, as by a look",
        "Action - State": "a state that lasts, as a verb tells it",
        "Relationship - Composition": "something that is made up of other things",
        "Relationship - Similarity": "things that are alike in some way",
        "Relationship - Inclusion": "something inside a container, or inside a flat thing such as a painting",
        "Relationship - Comparison": "how something of one thing compares with the same of another",
        "Compound - Imagination": "what cannot be in the real world",
        "Compound - Feature Matching": "several things, each with its own kinds of features and not with the others'",
        "Grammar - Pronoun Reference": "a pronoun that means the right one of several",
        "Grammar - Consistency": "a feature that several things share",
        "Grammar - Negation": "what the text says is not there, or is not so",
        "Entity Layout - Two-Dimensional Space": "where things are in the plane of the picture",
        "Entity Layout - Three-Dimensional Space": "where things are in depth, before and behind one another",
        "Logical Reasoning": "what follows from the text when it is thought through",
        "Text Generation": "the words to be written in the picture, each of them, and no others",
    },
    "zh": {
        "风格": "要求的画面风格：某种艺术、画家、摄影或设计流派",
        "世界知识": "需要了解才能画对的内容：人物、建筑、专业常识、网络用语",
        "属性-数量": "数目与文字一致，尤其是三个以上的情况",
        "属性-表情": "能看出情绪的表情，而不只是面部动作",
        "属性-材质": "物体由什么做成，表面看起来如何",
        "属性-大小": "主体的大小、高矮、长短、粗细或宽窄",
        "属性-形状": "物体的形状",
        "属性-颜色": "物体的颜色",
        "动作-人物/拟人手部动作": "手在做什么，手要完整，手指数目要对",
        "动作-人物/拟人全身动作": "人物或拟人角色用整个身体做的动作",
        "动作-动物动作": "动物在做什么",
        "动作-实体间有接触互动": "相互接触的互动",
        "动作-实体间无接触互动": "隔空的互动，例如相互注视",
        "动作-状态": "用动词表达的、持续的状态",
        "关系-构成关系": "一个东西由别的东西组成",
        "关系-相似关系": "几个东西在某方面相像",
        "关系-包含关系": "一个东西在容器里，或者在画之类的平面里",
        "关系-比较关系": "两个东西在同一方面的对比",
        "复合考点-想象力": "现实世界里不会有的内容",
        "复合考点-不同实体特征匹配": "几个东西各有各的特征，不能互相混淆",
        "语法-代词指代": "代词所指的对象要对",
        "语法-统一性": "几个东西共有的特征",
        "语法-否定": "文字里说没有或者不是的内容",
        "实体布局-二维空间": "东西在画面平面上的位置",
        "实体布局-三维空间": "东西在纵深方向上的前后位置",
        "逻辑推理": "要把文字的意思想透才能得出的内容",
        "文本生成": "画面里要写出的文字，一个不少，一个不多",
    },
}

_PLACE = re.compile(r"\{(\w+)\}")
_PLACES = ("prompt", "testpoint", "explanation", "test_explanation")
_NEEDED = ("prompt", "test_explanation")


@dataclass(frozen=True)
class Wording:
    """template: with {prompt}, {testpoint}, {explanation} and {test_explanation}; definitions: of kinds of points."""

    template: str
    definitions: Mapping[str, str]

    def request(self, item: Asked) -> str:
        known = [f"{p}: {self.definitions[p]}" for p in dict.fromkeys(item.points) if p in self.definitions]
        words = {
            "prompt": item.text,
            "testpoint": str(list(item.points)),
            "explanation": "\n".join(known),
            "test_explanation": "\n".join(f"{p}: {told}" for p, told in zip(item.points, item.descriptions)),
        }
        return _PLACE.sub(lambda found: words[found[1]], self.template)


def wording_of(language: str, template: str | Path | None = None, definitions: str | Path | None = None) -> Wording:
    """Ours in that language; or a template (a text file), or definitions (a JSON object), of the user's.

    Raises ConfigError for a file that cannot be read, a place that a template lacks and one that we do not fill.
    """
    text, known = TEMPLATES[language], DEFINITIONS[language]
    if template is not None:
        text = _file(template, "template")
        if wrong := [name for name in _PLACE.findall(text) if name not in _PLACES]:
            raise ConfigError(f"template {template}: {{{wrong[0]}}} is not filled in; {near(wrong[0], _PLACES)}")
        if lacking := [name for name in _NEEDED if f"{{{name}}}" not in text]:
            raise ConfigError(f"template {template}: it lacks {{{lacking[0]}}}")
    if definitions is not None:
        try:
            known = json.loads(_file(definitions, "definitions"))
        except ValueError as error:
            raise ConfigError(f"definitions {definitions}: no JSON: {error}") from None
        if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
            raise ConfigError(f"definitions {definitions}: expected an object of texts, got {short(known)}")
        if template is not None and "{explanation}" not in text:
            raise ConfigError(f"definitions: the template {template} has no {{explanation}}; leave them out")
    return Wording(text, known)


def _file(path: str | Path, option: str) -> str:
    try:
        return resolve(str(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path} cannot be read: {error}") from None
