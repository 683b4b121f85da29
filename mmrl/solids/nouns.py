"""What is said of solids: why one is refused, and which ones are too large to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

from mmrl.sandbox import Refused

__all__ = ["INVALID", "NOT_SOLID", "NO_RESULT", "STATUSES", "TOO_LARGE", "UNREADABLE"]
__all__ += ["Limits", "Point", "Refused", "one_line"]

Point = tuple[float, float, float]

# Why a shape cannot be measured; each comes with a reason in words.
NO_RESULT = "no_result"  # nothing was made
NOT_SOLID = "not_solid"  # a sketch, a wire, a face, an open shell
INVALID = "invalid_solid"  # a solid that the kernel finds broken, empty or not finite
TOO_LARGE = "too_large"  # a file, an extent or a number of faces above the limits
UNREADABLE = "unreadable"  # no shape in these bytes
STATUSES = (NO_RESULT, NOT_SOLID, INVALID, TOO_LARGE, UNREADABLE)


@dataclass(frozen=True)
class Limits:
    """What is looked at. Lengths in mm.

    extent: the longest side of the bounding box. thickness: the shortest one may not be below it. size: bytes of a
    file.
    """

    extent: float = 1e5
    thickness: float = 1e-4
    faces: int = 5000
    solids: int = 200
    size: int = 32 << 20

    def __post_init__(self) -> None:
        if not (0 < self.thickness < self.extent < 1e9) or min(self.faces, self.solids, self.size) < 1:
            raise ValueError(
                f"{self}: thickness is above 0 and below extent, which is below 1e9; the others are 1 or more"
            )


def one_line(error: object, longest: int = 200) -> str:
    """The words of an error on one line, cut short."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= longest else f"{words[:longest]} ..."
