"""Numbers of a configuration: what is taken for one, and how large one may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from mmrl.near import short

# torch takes seeds and sizes of 63 bits, and computes in float32.
LARGEST = 2**63 - 1
WIDEST = 3.4028234663852886e38

NUMBERS = (int, float)
CONTAINERS = (list, tuple, dict)


def problem(value: Any, annotation: Any) -> str:
    """Why `value` cannot be what the annotation of a field asks for, where it asks for numbers; "" if it can.

    A bool and a text are no numbers; a whole float is an integer. An integer has 63 bits at most, a float what float32
    holds. Lists, tuples and mappings of numbers are looked into. NaN and infinity are the section's to refuse.
    """
    arms = list(_arms(annotation))
    if isinstance(value, bool | str | int | float):
        numbers = [arm for arm in arms if arm in NUMBERS]
        others = [arm for arm in arms if arm not in (*NUMBERS, NoneType) and get_origin(arm) not in CONTAINERS]
        return _scalar(value, whole=float not in numbers) if numbers and not others else ""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for number, item in enumerate(items):
        found = [problem(item, inside) for arm in arms for inside in _inside(arm, number)]
        if found and all(found):
            return found[0]
    return ""


def _scalar(value: bool | str | float, whole: bool) -> str:
    wanted = "an integer" if whole else "a number"
    if isinstance(value, bool):
        return f"{str(value).lower()} is not {wanted}"
    if isinstance(value, str):
        return f"{short(value)} is text, not {wanted}"
    if value in (float("inf"), float("-inf")):
        return ""
    if abs(value) > (LARGEST if whole else WIDEST):
        return f"{short(value)} is too large; {'the largest is 2^63 - 1' if whole else 'float32 holds 3.4e38'}"
    return ""


def _arms(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, or the annotation itself."""
    if get_origin(annotation) is Annotated:
        yield from _arms(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for arm in get_args(annotation):
            yield from _arms(arm)
    else:
        yield annotation


def _inside(arm: Any, number: int) -> list[Any]:
    """What the item `number` of a container is annotated as."""
    arguments = get_args(arm)
    if get_origin(arm) is dict:
        return [arguments[1]]
    if get_origin(arm) is tuple and Ellipsis not in arguments:
        return [arguments[number]] if number < len(arguments) else []
    return [arguments[0]] if get_origin(arm) in CONTAINERS else []
