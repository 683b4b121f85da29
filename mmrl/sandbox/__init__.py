"""Sandbox: runs programs that a policy wrote, in confined processes. The standard library and nothing else."""

from .limits import Limits
from .outcome import Outcome, Refused, Status
from .process import Layers, SandboxError
from .sandbox import Sandbox
from .shared import shared
from .sieve import Dialect, compiled

__all__ = [
    "Dialect",
    "Layers",
    "Limits",
    "Outcome",
    "Refused",
    "Sandbox",
    "SandboxError",
    "Status",
    "compiled",
    "shared",
]
