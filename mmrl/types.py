"""The nouns of mmrl: Prompt, Pair, Sample, Score, Group, Trajectory. Data only; no algorithm lives here."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Complex, Real
from typing import TYPE_CHECKING, Any

from mmrl.media import Perceived

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """One record to roll out: an identity, the text, and every other column of the record.

    Two records with equal text and different ids are different prompts.
    """

    id: str
    text: str
    record: Mapping[str, Any] = field(default_factory=dict)
    root: str | None = None  # folder that file names in the record are below; None: they are not from a file


@dataclass(frozen=True)
class Candidate:
    """One of the answers (or pictures) of a pair.

    answer: a text, or messages of {"role", "content"}; what an adapter's `given` takes. "" for a picture alone.
    images: references to pictures that belong to it, as a record's `images` has them.
    """

    answer: Any = ""
    images: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A prompt with two or more candidates, and which of them is preferred.

    shares: of the preference, one a candidate, summing to 1: (1, 0) is the first; (0.5, 0.5) a tie; (0.7, 0.3) a soft
    label; (0.5, 0.5, 0, 0) two right answers out of four.
    margin: how much better the preferred one is, on the data's own scale; None: not told. confidence: in the label, in
    [0, 1]; None: not told. category: in the grouping of its benchmark. unit: what is scored together, such as all pairs
    of one question; "" for the pair alone.
    """

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    shares: tuple[float, ...]
    margin: float | None = None
    confidence: float | None = None
    category: str = ""
    unit: str = ""

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def better(self) -> int | None:
        """The candidate with the largest share; None where several have it."""
        best = max(self.shares)
        return self.shares.index(best) if self.shares.count(best) == 1 else None


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation, in words.

    media: places in the sample's `media` of the pictures that the turn shows, in order.
    trained: whether the policy said it and learns from it.
    """

    role: str
    text: str
    media: tuple[int, ...] = ()
    trained: bool = False


@dataclass(frozen=True)
class Score:
    """What a reward says of a sample: a number, *not applicable*, or *invalid* with a reason.

    Never 0 for a failure: invalid scores are counted and kept out of every statistic.
    """

    value: float | None
    reason: str = ""
    status: str = "ok"  # "ok" | "na" | "invalid"
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, **details: Any) -> Score:
        """A plain return value of a reward: number -> ok, None -> not applicable, NaN or other -> invalid.

        A number is real, and may be an array or a tensor of no dimension; what no float can hold (10**400) is infinite.
        A text is none, nor is anything that holds numbers.
        """
        if isinstance(value, Score):
            return value
        if value is None:
            return cls(None, "not applicable", "na", details)
        number = _real(value)
        if number is None:
            return cls.invalid(f"returned {_named(value)}, expected a number or None")
        if not math.isfinite(number):
            return cls.invalid(f"returned {number}")
        return cls(number, details=details)

    @classmethod
    def invalid(cls, reason: str) -> Score:
        return cls(None, reason, "invalid")

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def _real(value: Any) -> float | None:
    """The value as a float; None for what is no real number."""
    try:
        if getattr(value, "shape", None) == ():  # an array's or a tensor's only entry
            value = value.item()
        kind = type(value)
        if isinstance(value, Complex) and not isinstance(value, Real):
            return None
        if getattr(value, "shape", ()) != () or not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):
            return None
        return float(value)
    except OverflowError:
        return math.inf
    except Exception:  # of the value's own
        return None


def _named(value: Any) -> str:
    """What a value is, in a few words."""
    kind = "the text" if isinstance(value, str) else type(value).__name__
    try:
        return f"{kind} {reprlib.repr(value)}"
    except Exception:  # of the value's own
        return kind


@dataclass
class Trajectory:
    """The actions that made a sample, as the core sees them, and what the adapter needs to replay them.

    An action is a token or one denoising step; there are T of them.

    logp: [T] float32, log-probability of each action when it was sampled.
    mask: [T] bool, True where the action is trained.
    tensors: whatever the adapter must keep to replay (latents, times, token ids ...), by name.
    """

    logp: Tensor
    mask: Tensor
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Sample:
    """One answer to a prompt: the artifact that rewards look at, and the trajectory behind it.

    `artifact` is a PIL image, a string, an (array, rate) pair ...: the modality says which. In a conversation it is
    what the policy said, its turns joined by newlines; `turns` has all of them in order, the opening included.
    media: what the policy was really shown, in order. info: numbers and words about the conversation from its
    environment ("calls", "crop" ...).
    words: each action in words (the text of each token), for the report; the modality may leave it out.
    version: the training step, from 0, before whose updates the weights that sampled were taken.
    advantages: those of the actions, for the report, where they have their own; `advantage` is the one farthest from 0.
    latents: while rewards that read them look at it, on the CPU: "clean" [C, ...], what is decoded; where steps
        are stored also "noisy" [K, C, ...], and "level" [K], their noise levels from 0 to 1.
    """

    prompt: Prompt
    index: int
    artifact: Any
    trajectory: Trajectory | None = None
    stop: str = "done"
    scores: dict[str, Score] = field(default_factory=dict)
    reward: float | None = None
    advantage: float | None = None
    words: Sequence[str] = ()
    turns: Sequence[Turn] = ()
    media: Sequence[Perceived] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0
    advantages: Sequence[float] = ()
    latents: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def actions(self) -> Trajectory:
        """The trajectory. Raises ValueError for a sample that has none: one of an evaluation, say."""
        if self.trajectory is None:
            raise ValueError(f"sample {self.index} of prompt {self.prompt.id!r} has no trajectory: nothing to replay")
        return self.trajectory


@dataclass
class Group:
    """One prompt and its n samples: the unit of data. `index` is its place in the iteration, over all ranks.

    draw: how often its prompt was sampled before in the same step; the noise of a group depends on `key`, so that the
    same prompt twice gives different samples.
    """

    prompt: Prompt
    index: int
    samples: list[Sample] = field(default_factory=list)
    draw: int = 0

    @property
    def key(self) -> str:
        """What the noise of its samples is seeded with: the prompt's id, and the draw where it is not the first."""
        return f"{self.prompt.id}\x1e{self.draw}" if self.draw else self.prompt.id


@dataclass
class ActionLogProbs:
    """What an adapter returns when it replays actions; every tensor [b, t], differentiable where it says so.

    logp: log-probability under the current policy (differentiable).
    log_ratio: differentiable log of the ratio, where it is not simply logp - logp_old (GRPO-Guard).
    weight: fixed weight of each action's loss (a mask keeps an action out; a weight only scales it).
    kl: exact KL of the current policy to the reference, per action (differentiable), where one exists.
    logp_reference: log-probability under the reference, for the sampled KL estimators.
    entropy: entropy of the policy at each action (differentiable).
    divergence: from the policy that sampled to the current one, at each action: for gates that look at it. Without
        gradient; of Gaussians the KL, a mean over elements.
    """

    logp: Tensor
    log_ratio: Tensor | None = None
    weight: Tensor | None = None
    kl: Tensor | None = None
    logp_reference: Tensor | None = None
    entropy: Tensor | None = None
    divergence: Tensor | None = None


@dataclass
class Noised:
    """Samples on their way to noise, and where the policy would go from there; every tensor [b, ...].

    clean: what was sampled, as the policy's own space holds it. noise: standard normal. x: (1 - t) clean + t noise.
    velocity: the policy's at x and t (differentiable), whose target is noise - clean.
    """

    clean: Tensor
    noise: Tensor
    x: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Slice:
    """A micro-batch: which samples (rows) and which of their actions (columns) are replayed together."""

    rows: Tensor  # [b] int64
    columns: Tensor  # [t] int64
