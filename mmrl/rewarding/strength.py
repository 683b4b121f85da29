"""Bradley-Terry: from who won against whom, one strength for each, and how well it is known.

P(i beats j) = sigmoid(s_i - s_j). A strength is in log-odds: 1 more is 73 % against 27 %. `elo` puts it on Elo's scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# (i, j, wins of i, from 0 to 1): one comparison; 0.5 is a tie.
Outcome = tuple[int, int, float]
ELO = 400.0 / math.log(10.0)  # points of a strength of 1


@dataclass(frozen=True)
class Strengths:
    """One entry a player; None for one that was never compared.

    values: strengths, of mean 0 in each component, or over its `zero` (see bradley_terry). low, high: the interval's
    ends. component: number of the set of players that comparisons connect; strengths of two components cannot be
    compared.
    """

    values: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    component: tuple[int, ...]


def bradley_terry(
    wins: Sequence[Sequence[float]] | np.ndarray,
    prior: float = 1.0,
    level: float = 0.95,
    zero: Sequence[int] = (),
) -> Strengths:
    """Strengths of the most probable model, with intervals from the Fisher information.

    wins: [n, n], `wins[i][j]` is how often i beat j; a tie is half a win of each. The diagonal does not count.
    prior: ties of each player against one of strength 0. Above 0 it keeps the strength of an undefeated player finite;
    with 0 there may be no maximum (Ford 1957), which raises ValueError. level: of the intervals. zero: players whose
    mean is 0 in their component, such as anchors: the others' intervals are those of the distance from it. Where a
    component has none of them, the mean of all of it is 0.
    Hunter, "MM algorithms for generalized Bradley-Terry models" (2004), has the likelihood; it is concave, and the
    maximum is found by Newton's method in a trust region.
    """
    import numpy as np
    from scipy.special import ndtri

    if not prior >= 0 or not 0 < level < 1:
        raise ValueError(f"prior={prior} must be 0 or more, and level={level} between 0 and 1")
    won = _matrix(wins)
    count = len(won)
    values: list[float | None] = [None] * count
    low, high = list(values), list(values)
    component = components(won)
    width = float(ndtri((1 + level) / 2))
    for number in sorted(set(component)):
        members = [i for i in range(count) if component[i] == number]
        if len(members) == 1:
            continue
        anchors = [k for k, i in enumerate(members) if i in zero] or list(range(len(members)))
        strengths, variances = _fit(won[np.ix_(members, members)], prior, anchors)
        for i, strength, variance in zip(members, strengths, variances):
            values[i] = float(strength)
            low[i], high[i] = float(strength - width * variance**0.5), float(strength + width * variance**0.5)
    return Strengths(tuple(values), tuple(low), tuple(high), tuple(component))


def bootstrapped(
    outcomes: Sequence[Outcome], count: int, draws: int = 200, seed: int = 0, prior: float = 1.0, level: float = 0.95
) -> Strengths:
    """As `bradley_terry`, with intervals from `draws` samples of the comparisons, with replacement.

    count: of players. The quantiles of a player are over the draws in which its component is whole.
    """
    import numpy as np

    whole = bradley_terry(wins_of(outcomes, count), prior, level)
    random = np.random.default_rng(seed)
    seen: list[list[float]] = [[] for _ in range(count)]
    for _ in range(draws):
        drawn = [outcomes[k] for k in random.integers(0, len(outcomes), len(outcomes))]
        made = bradley_terry(wins_of(drawn, count), prior, level)
        for i, value in enumerate(made.values):
            if value is not None and _members(made.component, i) == _members(whole.component, i):
                seen[i].append(value)
    ends = [(1 - level) / 2, (1 + level) / 2]
    pairs = [np.quantile(values, ends).tolist() if values else (None, None) for values in seen]
    return Strengths(whole.values, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), whole.component)


def wins_of(outcomes: Sequence[Outcome], count: int) -> np.ndarray:
    """[count, count] wins of single comparisons."""
    import numpy as np

    won = np.zeros((count, count))
    for i, j, share in outcomes:
        won[i, j] += share
        won[j, i] += 1.0 - share
    return won


def components(wins: Sequence[Sequence[float]] | np.ndarray) -> list[int]:
    """For each player the number, from 0, of the set that comparisons connect it with."""
    from scipy.sparse.csgraph import connected_components

    won = _matrix(wins)
    return [int(number) for number in connected_components(won + won.T > 0, directed=False)[1]]


def elo(strength: float, base: float = 1000.0) -> float:
    """A strength on Elo's scale, where 400 points more are odds of 10 to 1; `base` is that of strength 0."""
    return base + ELO * strength


def _matrix(wins: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    import numpy as np

    won = np.array(wins, dtype=float)
    if won.ndim != 2 or won.shape[0] != won.shape[1] or not np.isfinite(won).all() or (won < 0).any():
        raise ValueError(f"wins of the shape {won.shape}: expected a square of finite numbers, 0 or more")
    np.fill_diagonal(won, 0.0)
    return won


def _members(component: Sequence[int], player: int) -> set[int]:
    return {i for i, number in enumerate(component) if number == component[player]}


def _fit(won: np.ndarray, prior: float, zero: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(strengths, their variances) of players that are all connected; the mean of those in `zero` is 0."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.sparse.csgraph import connected_components
    from scipy.special import expit, log_expit

    if prior == 0 and connected_components(won > 0, directed=True, connection="strong")[0] > 1:
        raise ValueError("prior=0: some players never lost to the others, so their strength has no bound; give a prior")
    games = won + won.T
    size = len(won)

    def loss(s: np.ndarray) -> float:
        apart = s[:, None] - s[None, :]
        return float(-(won * log_expit(apart)).sum() - prior / 2 * (log_expit(s) + log_expit(-s)).sum())

    def slope(s: np.ndarray) -> np.ndarray:
        expected = games * expit(s[:, None] - s[None, :])
        return expected.sum(1) - won.sum(1) + prior * (expit(s) - 0.5)

    def information(s: np.ndarray) -> np.ndarray:
        p = expit(s[:, None] - s[None, :])
        weight = games * p * (1 - p)
        own = prior * expit(s) * expit(-s)
        return np.diag(weight.sum(1) + own) - weight

    start = np.zeros(size)
    s = minimize(loss, start, method="trust-exact", jac=slope, hess=information, options={"gtol": 1e-9}).x
    centring = np.eye(size)
    centring[:, zero] -= 1.0 / len(zero)
    variances = np.diag(centring @ np.linalg.pinv(information(s), hermitian=True) @ centring.T)
    return centring @ s, np.maximum(variances, 0.0)


__all__ = ["Outcome", "Strengths", "bootstrapped", "bradley_terry", "components", "elo", "wins_of"]
