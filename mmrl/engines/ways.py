"""How a decoder may be run without changing what it computes, found out by trying.

Models differ in what their cache can do: a state that is updated in place cannot be gone on from in training, some take
padding for tokens, some keep their state in the module. A list of names would be wrong for the next one, so a few short
rows are run in each way and compared with the plain way: one row, one forward, no cache, no padding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from mmrl.engines.blocks import Blocks
from mmrl.engines.continuing import Cached
from mmrl.engines.decoder import Decoder, Row

Found = TypeVar("Found")

# Tokens of the two rows that are tried: prompts shorter and longer than the kernel of a convolution.
PROMPTS, COMPLETION = (2, 7), 4
TOKENS = sum(PROMPTS) + 2 * COMPLETION
# Parameters, the smallest ones, whose gradients are compared.
GRADIENTS = 8
GRADIENTS_OFF = 0.2  # of all of them together, relative; in 16 bit rounding alone makes some hundredths
NO_GRADIENT = 1e-4  # of the largest number of all: what is below it is rounding, as of a bias of keys without rotation
# Of hidden states, relative to their size: what another order of sums rounds, in float32 (norms of small states make
# much of it) and in 16 bit.
ROUNDING, ROUNDING_16 = 5e-3, 0.1


@dataclass(frozen=True)
class Ways:
    """cached: tokens may be sampled on a cache. padded: prompts of unequal length may fill it together, padded on the
    left. shared: completions may be replayed, with gradient, on the cache of their prompt; recomputed: in train mode,
    too, where layers are computed again in the backward (gradient checkpointing). blocks: tokens may be sampled by
    engines.blocks. line: rows of up to so many tokens may be replayed,
    with gradient, one behind the other (Decoder.line), recomputed or not; 0: none.
    why: what is wrong with a cache that is of no use, or with padding."""

    cached: bool = True
    padded: bool = True
    shared: bool = True
    recomputed: bool = False
    blocks: bool = False
    line: int = 0
    why: str = ""


def trial_ids(vocabulary: int, banned: Sequence[int]) -> Tensor:
    """[TOKENS] int64, the same each time: what find_ways tries a decoder with. banned: ids that stand for no text."""
    allowed = torch.ones(vocabulary, dtype=torch.bool)
    allowed[list(banned)] = False
    known = torch.nonzero(allowed).flatten()
    return known[torch.randint(len(known), (TOKENS,), generator=torch.Generator().manual_seed(0))]


class Here:
    """How a trial runs a decoder whose weights are all there."""

    def run(self, compute: Callable[[], Found]) -> Found:
        return compute()

    def weights(self, module: Any) -> list[Tensor]:
        """The trained parameters that a gradient is asked of."""
        return [p for p in module.parameters() if p.requires_grad]


@torch.no_grad()
def find_ways(decoder: Decoder, ids: Tensor, recomputed: bool = False, line: int | None = None) -> Ways:
    """The ways in which a decoder gives the hidden states of the plain way; tried in eval mode.

    ids: see trial_ids. recomputed: try Ways.recomputed, too, for a decoder with gradient checkpointing. line: what
    find_line has found; None: it is tried, too. What was found holds for every model of the same class and numbers.
    Raises ValueError for one that cannot be replayed: its tokens see what is behind them, or its rows one another.
    """
    if decoder.prefix_attention:
        return Ways()  # a prompt of it is never in one row with what follows, so there is no plain way
    key = _kind(decoder), recomputed, line
    if key not in _FOUND:
        training = decoder.module.training  # asked in the middle of a replay it may be
        decoder.module.eval()
        try:
            _FOUND[key] = _tried(decoder, ids, recomputed, line)
        finally:
            decoder.module.train(training)
    return _FOUND[key]


@torch.no_grad()
def find_line(decoder: Decoder, ids: Tensor, recomputed: bool, here: Here) -> int:
    """Ways.line alone, in which other weights than a block's need not be there; see find_ways, also for what it raises.
    The decoder is in eval mode."""
    return _line(_trial(decoder, ids, here), recomputed)


_FOUND: dict[Hashable, Ways] = {}


def _kind(decoder: Decoder) -> Hashable:
    """Equal for decoders that differ in their weights only."""
    module, kind = decoder.module, decoder.device.type
    config = module.config
    computes = (module.dtype, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    return type(decoder), type(module), config.to_json_string(), config._attn_implementation, kind, computes


def _trial(decoder: Decoder, ids: Tensor, here: Here) -> _Trial:
    """Raises ValueError for a decoder that is not causal."""
    pieces = [Row(piece) for piece in ids.split([*PROMPTS, COMPLETION, COMPLETION])]
    trial = _Trial(decoder, pieces[:2], pieces[2:], here)
    if not trial.causal():
        name = type(decoder.module).__name__
        raise ValueError(
            f"{name}: its tokens see what is behind them, or other rows of the batch; it is no causal language model, "
            "and what it samples cannot be replayed. Choose another model.path"
        )
    return trial


def _line(trial: _Trial, recomputed: bool) -> int:
    """See Ways.line. In 16 bit numbers alone do not tell: what untrained layers do, or places that they count from the
    beginning of the line, may be less than rounding. So positions have to be taken, no state kept, and each layer has
    to ask the mask."""
    decoder = trial.decoder
    right = decoder.takes_positions and not _counts_padding(decoder) and trial.line_is_right(recomputed)
    return (decoder.window or sys.maxsize) if right else 0


def _tried(decoder: Decoder, ids: Tensor, recomputed: bool, line: int | None) -> Ways:
    trial = _trial(decoder, ids, Here())
    line = _line(trial, recomputed) if line is None else line
    if trial.right(trial.sampled, (0, 1)) and not _counts_padding(decoder):
        shared = trial.right(trial.shared)
        recomputed = shared and recomputed and trial.right(trial.recomputed)
        blocks = Blocks.usable(decoder.module)
        blocks = blocks and all(trial.right(trial.sampled, (0, 1), True, fold) for fold in (False, True))
        return Ways(shared=shared, recomputed=recomputed, blocks=blocks, line=line)
    cached = trial.right(trial.sampled, (0,)) and trial.right(trial.sampled, (1,))
    return Ways(cached, padded=False, shared=False, line=line, why=trial.why)


def likely_ways(decoder: Decoder, recomputed: bool = False) -> Ways:
    """What find_ways would find of a decoder without numbers, as far as its class and its config tell. recomputed: as
    there."""
    if decoder.prefix_attention:
        return Ways()
    padded = not _counts_padding(decoder)
    shared = padded and not _keeps_state(decoder)
    in_line = shared and decoder.takes_positions and decoder.module.config._attn_implementation == "sdpa"
    line = (decoder.window or sys.maxsize) if in_line else 0
    return Ways(padded=padded, shared=shared, recomputed=shared and recomputed, line=line)


def _keeps_state(decoder: Decoder) -> bool:
    """Whether there is more to go on from than keys and values by token. What has no cache here may keep anything."""
    from mmrl.engines.cache import has_state

    try:
        return has_state(decoder.new_cache())
    except Exception:  # as for _Trial.right
        return True


def _counts_padding(decoder: Decoder) -> bool:
    """Llama 4 warms its attention by a token's place in the batch, padding included, from thousands of tokens on
    (`floor_scale`): no short row shows it."""
    return bool(getattr(decoder.module.config, "attn_temperature_tuning", False))


# (found, wanted): hidden states [t, D] of rows.
Compared = tuple[Sequence[Tensor], Sequence[Tensor]]


class _Trial:
    """Two prompts and their completions. why: what was wrong with the last way that was."""

    why = ""

    def __init__(self, decoder: Decoder, prompts: Sequence[Row], completions: Sequence[Row], here: Here) -> None:
        self.decoder, self.prompts, self.completions, self.here = decoder, prompts, completions, here
        self.whole = [p.then(c) for p, c in zip(prompts, completions)]
        self.plain = self._run(self._plainly)

    def _plainly(self) -> list[Tensor]:
        return [self.decoder.run([row]).hidden[0] for row in self.whole]

    def _run(self, compute: Callable[[], Found]) -> Found:
        """What `compute` gives; what it raises is raised outside of what runs the model."""

        def attempt() -> tuple[Found | None, Exception | None]:
            try:
                return compute(), None
            except Exception as error:
                return None, error

        found, error = self.here.run(attempt)
        if error is not None:
            raise error
        return cast(Found, found)

    def right(self, way: Callable[..., Compared], *arguments: Any) -> bool:
        """Whether a way gives what is wanted. What a cache cannot do, it says with any exception."""
        try:
            found, wanted = way(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self.why = f"{type(error).__name__}: {str(error)[:100]}"
            return False
        gap = self._gap(found, wanted)
        allowed = ROUNDING if self._exact else ROUNDING_16
        self.why = self.why if gap <= allowed else f"hidden states are off by {gap:.1e} on a cache"
        return gap <= allowed

    def causal(self) -> bool:
        """Rows padded on the right, and prompts alone, are computed as they are in whole rows."""

        def otherwise() -> list[Tensor]:
            batch = self.decoder.run(self.whole).hidden
            rows = [batch[i, : len(row)] for i, row in enumerate(self.whole)]
            return [*rows, self.decoder.run([self.prompts[1]]).hidden[0]]

        rows = self._run(otherwise)
        return self.right(lambda: (rows, [*self.plain, self.plain[1][: PROMPTS[1]]]))

    def sampled(self, chosen: Sequence[int], blocks: bool = False, fold: bool = False) -> Compared:
        """Two rows of each chosen prompt on one cache; the first ends after a token, and the last takes its place."""
        owners = [i for i in chosen for _ in range(2)]
        growing = Cached(self.decoder, [self.prompts[i] for i in chosen], [2] * len(chosen), COMPLETION, blocks, fold)
        found: list[Tensor] = []
        wanted: list[Tensor] = []
        for t in range(COMPLETION):
            found.append(growing.hidden)
            wanted.append(torch.stack([self.plain[i][PROMPTS[i] + t - 1] for i in owners]))
            if t == 1:
                kept = [len(owners) - 1, *range(1, len(owners) - 1)]
                growing.select(torch.tensor(kept, device=self.decoder.device))
                owners = [owners[k] for k in kept]
            growing.step(torch.stack([self.completions[i].ids[t] for i in owners]).to(self.decoder.device))
        return found, wanted

    def shared(self) -> Compared:
        """Both completions, and a part of the first once more, on the cache of their prompts."""
        from mmrl.engines.cache import has_state, select_rows

        owner = [0, 0, 1]
        rows = [Row(self.completions[0].ids[:2]), *self.completions]
        cache = self.decoder.new_cache()
        if has_state(cache):
            raise ValueError("its state is changed in place, and the backward needs what it was")
        before = self.decoder.run(self.prompts, left=True, cache=cache)
        places = torch.tensor(owner, device=self.decoder.device)
        select_rows(cache, places)
        hidden = self.decoder.run(rows, cache=cache, before=before, owner=places).hidden
        found = [line[: len(row)] for line, row in zip(hidden, rows)]
        return found, [self.plain[i][PROMPTS[i] :][: len(row)] for i, row in zip(owner, rows)]

    def recomputed(self) -> Compared:
        """The same in train mode with gradient, and the gradient of a few small parameters."""
        return self._with_gradient(self._on_filled, True)

    def line_is_right(self, recomputed: bool) -> bool:
        """Whether rows may stand one behind the other, in train mode, too, where layers are computed again there."""
        why = self.why
        right = all(self.right(self._with_gradient, self._in_line, train) for train in (False, True)[: 1 + recomputed])
        self.why = why  # that is of caches
        return right

    def _with_gradient(self, way: Callable[[], list[Tensor]], train: bool) -> Compared:
        """The lines that a way gives, of both completions and a part of the first, and their gradients."""
        module = self.decoder.module
        parameters = sorted(self.here.weights(module), key=Tensor.numel)[:GRADIENTS]
        module.train(train)
        try:
            with torch.enable_grad():
                found = self._run(way)
                gradients = [_gradients(found, parameters)]
                plain = self._run(self._plainly)
                wanted = [plain[i][PROMPTS[i] :][: len(line)] for i, line in zip((0, 0, 1), found)]
                gradients.append(_gradients(wanted, parameters))
        finally:
            module.eval()
        if parameters:  # by themselves: right states may not outvote them
            one, other = (torch.cat(each, 1) for each in gradients)
            if not (off := float((one - other).norm() / other.norm().clamp(min=1e-6))) <= GRADIENTS_OFF:
                raise ValueError(f"gradients are off by {off:.1e}")
            gradients = _not_rounding_alone(*gradients)
        return [*found, *gradients[0]], [*wanted, *gradients[1]]

    def _in_line(self) -> list[Tensor]:
        """Prompts, and completions that go on from them; whole rows beside them must not be seen."""
        from mmrl.engines.cache import has_state

        if has_state(self.decoder.new_cache()):
            raise ValueError("its state goes on from row to row")
        rows = [Row(self.completions[0].ids[:2]), *self.completions]
        segments, after = [*self.prompts, *rows, self.whole[1]], [None, None, 0, 0, 1, None]
        pieces = self.decoder.line(segments, after).split([len(segment) for segment in segments])
        gap = self._gap([pieces[-1].detach()], [self.plain[1]])
        if not gap <= (ROUNDING if self._exact else ROUNDING_16):
            raise ValueError(f"hidden states of a row that follows others are off by {gap:.1e}")
        return list(pieces[2:5])

    def _on_filled(self) -> list[Tensor]:
        from mmrl.engines.cache import Filled

        cache = self.decoder.new_cache()
        filled = Filled(cache, self.decoder.layers)
        before = self.decoder.run(self.prompts, left=True, cache=cache)
        places = torch.tensor([0, 0, 1], device=self.decoder.device)
        rows = [Row(self.completions[0].ids[:2]), *self.completions]
        hidden = self.decoder.run(rows, cache=filled.select(places), before=before, owner=places).hidden
        return [line[: len(row)] for line, row in zip(hidden, rows)]

    @property
    def _exact(self) -> bool:
        return self.plain[0].dtype == torch.float32 and not torch.is_autocast_enabled(self.decoder.device.type)

    def _gap(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
        """Relative to a token's states. In 16 bit a router may send a token elsewhere, so most tokens have to agree; in
        float32 all have to."""
        gaps = [(a - b).abs().amax(-1) / b.abs().amax(-1).clamp(min=1e-6) for a, b in zip(found, wanted)]
        gap = torch.cat(gaps).float()
        return float(gap.max() if self._exact else gap.median())


def _gradients(lines: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """[1, numel] of each parameter, of a sum over hidden states that weighs each number differently."""
    if not parameters:
        return []
    flat = torch.cat([line.flatten() for line in lines]).float()
    loss = (flat * torch.linspace(-1, 1, len(flat), device=flat.device)).sum()
    return [g.flatten()[None] for g in torch.autograd.grad(loss, parameters, materialize_grads=True)]


def _not_rounding_alone(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[list[Tensor]]:
    """Both without the pairs that are nothing in either: what rounding leaves of 0 is as far off as it is large."""
    sizes = torch.stack([torch.stack([a.abs().max(), b.abs().max()]).max() for a, b in zip(one, other)])
    kept = (sizes > NO_GRADIENT * sizes.max()).tolist()
    return [[g for g, keep in zip(each, kept) if keep] for each in (one, other)]
