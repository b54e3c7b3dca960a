"""Intervals for ratings that depend on who rated and on what was rated: a bootstrap over raters and items.

Both raters and items are drawn anew with replacement, independently, and a rating counts as often as its rater times as
often as its item was drawn (Owen, "The pigeonhole bootstrap", 2007). It errs on the wide side, where a bootstrap over
single ratings, which are not independent, would be far too narrow.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_DRAWS = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the ends of its interval; None where the ratings cannot tell."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """How often each rater and each item was drawn: int draws × raters, and draws × items."""

    raters: NDArray[np.int64]
    items: NDArray[np.int64]


def draw(num_raters: int, num_items: int, *, num_draws: int = DEFAULT_DRAWS, seed: int = 0) -> Drawn:
    """Draw raters and items with replacement. The same arguments give the same draws."""
    generator = np.random.default_rng(seed)
    return Drawn(
        generator.multinomial(num_raters, np.full(num_raters, 1 / num_raters), num_draws),
        generator.multinomial(num_items, np.full(num_items, 1 / num_items), num_draws),
    )


def ratios(
    sums: NDArray[np.float64], counts: NDArray[np.float64], drawn: Drawn
) -> tuple[float | None, NDArray[np.float64]]:
    """The mean of what was given, and that of each draw (NaN where a draw holds nothing).

    Args:
        sums: raters × items; the sum of the values that a rater gave for an item.
        counts: raters × items; how many values these are.
        drawn: of as many raters and items.
    """
    total = counts.sum()
    mean = float(sums.sum() / total) if total else None
    above = ((drawn.raters @ sums) * drawn.items).sum(axis=1)
    below = ((drawn.raters @ counts) * drawn.items).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return mean, np.where(below > 0, above / below, np.nan)


def estimate_share(
    value: float | None, draws: NDArray[np.float64], *, num_raters: int, num_items: int
) -> Estimate:
    """As `estimate`, for a share from 0 to 1, which draws cannot bound where nobody, or everybody, chose the same.

    There the open end is where as many raters as these, each taken for a single vote, would still all have chosen alike
    with a chance of 2.5 % (Clopper and Pearson, 1934, for none or all of n).
    """
    found = estimate(value, draws, num_raters=num_raters, num_items=num_items)
    reach = 1 - ((1 - CONFIDENCE) / 2) ** (1 / num_raters)
    if found.low is not None and value == 0:
        return Estimate(value, 0.0, reach)
    if found.low is not None and value == 1:
        return Estimate(value, 1 - reach, 1.0)
    return found


def estimate(value: float | None, draws: NDArray[np.float64], *, num_raters: int, num_items: int) -> Estimate:
    """The value with the middle 95 % of the draws; no interval where there was but one rater and one item."""
    usable = draws[~np.isnan(draws)]
    if value is None or not len(usable) or max(num_raters, num_items) < 2:
        return Estimate(value, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
