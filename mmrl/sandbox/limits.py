"""What a program may use up, each with its unit in its name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of one program. Raises ValueError for one that is not above 0.

    seconds: wall clock; the processor's time is limited to the next whole second above it, and one. memory_mb: address
    space beyond what the worker has after `prepare` (MiB). output_mb: what the runner returns (MiB). printed_kb: what
    is written to standard output (KiB). source_kb, argument_mb: the program's text in UTF-8 (KiB), and what it is given
    (MiB). files: open descriptors. threads: at a time, as the worker counts ten times a second; the kernel itself
    allows so many above those that the user has already.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    output_mb: int = 16
    printed_kb: int = 1024
    source_kb: int = 256
    argument_mb: int = 64
    files: int = 64
    threads: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e7:
                raise ValueError(f"{field.name}={str(value)[:40]} must be a number above 0 and below ten million")
        whole = ("memory_mb", "output_mb", "printed_kb", "source_kb", "argument_mb", "files", "threads")
        for name in whole:
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name}={getattr(self, name)} must be a whole number")
        if self.files < 8:
            raise ValueError(f"files={self.files} must be 8 at least: four are open when a program begins")

    def as_json(self) -> dict[str, float]:
        return asdict(self)
