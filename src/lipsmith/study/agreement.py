"""Agreement between raters: Krippendorff's alpha.

Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011). 1 is perfect agreement, 0 what chance gives, below 0
worse than chance.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(values: NDArray[np.float64], metric: Metric) -> float | None:
    """Krippendorff's alpha of values, float raters × units; NaN where a rater did not rate a unit.

    Args:
        values: what each rater said of each unit; categories may be any numbers.
        metric: how far two values are apart: `nominal` differ or not, `ordinal` by the ranks between them, `interval`
            by the square of their difference.

    Returns None where alpha is not defined: no unit has two values, or all values are the same.
    """
    counts_by_unit, categories = _count(values)
    coincidences = _coincidences(counts_by_unit)
    margins = coincidences.sum(axis=0)
    total = margins.sum()
    distances = _distances(categories, margins, metric)
    expected = float(margins @ distances @ margins)
    if total < 2 or expected == 0:
        return None
    observed = float((coincidences * distances).sum())
    return 1 - (total - 1) * observed / expected


def _count(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each unit got each category (units × categories), and the categories, ascending."""
    categories = np.unique(values[~np.isnan(values)])
    return (values[:, :, None] == categories).sum(axis=0).astype(np.float64), categories


def _coincidences(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pairs of values within units (categories × categories); each unit weighs as much as it has values."""
    paired = counts[counts.sum(axis=1) > 1]
    weights = 1 / (paired.sum(axis=1) - 1)
    pairs = np.einsum("uc,ud,u->cd", paired, paired, weights)
    return np.asarray(pairs - np.diag(weights @ paired))


def _distances(
    categories: NDArray[np.float64], margins: NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    if metric == "nominal":
        return 1 - np.eye(len(categories))
    if metric == "interval":
        return np.asarray((categories[:, None] - categories) ** 2)
    # The ranks from the middle of one category to the middle of the other.
    middles = np.cumsum(margins) - margins / 2
    return np.asarray((middles[:, None] - middles) ** 2)
