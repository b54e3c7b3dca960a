import numpy as np
import pytest

from lipsmith.study.intervals import draw, estimate, estimate_share, ratios


def test_each_draw_holds_as_many_as_there_are() -> None:
    drawn = draw(7, 3, num_draws=50, seed=1)
    assert (drawn.raters.sum(axis=1) == 7).all() and (drawn.items.sum(axis=1) == 3).all()


def test_the_same_seed_the_same_draws() -> None:
    first, second, other = (draw(5, 5, num_draws=9, seed=seed) for seed in (1, 1, 2))
    assert (first.raters == second.raters).all() and (first.items == second.items).all()
    assert (first.raters != other.raters).any()


def test_mean_of_the_ratings() -> None:
    mean, _ = ratios(np.array([[4.0, 2.0], [3.0, 0.0]]), np.array([[1.0, 1.0], [1.0, 0.0]]), draw(2, 2))
    assert mean == 3


def test_a_draw_weighs_a_rating_by_its_rater_and_its_item() -> None:
    drawn = draw(2, 2, num_draws=200, seed=0)
    sums = np.array([[1.0, 2.0], [3.0, 4.0]])
    _, draws = ratios(sums, np.ones((2, 2)), drawn)
    for found, raters, items in zip(draws, drawn.raters, drawn.items, strict=True):
        weights = np.outer(raters, items)
        assert found == pytest.approx((weights * sums).sum() / weights.sum())


def test_spread_of_a_mean_over_raters() -> None:
    """One item rated 1 or 5 by a hundred raters each: the error of the mean is 2 / sqrt(200)."""
    sums = np.repeat([1.0, 5.0], 100)[:, None]
    mean, draws = ratios(sums, np.ones_like(sums), draw(200, 1, num_draws=4000))
    assert mean == 3
    assert draws.std() == pytest.approx(2 / np.sqrt(200), rel=0.05)
    found = estimate(mean, draws, num_raters=200, num_items=1)
    assert found.low == pytest.approx(3 - 1.96 * 2 / np.sqrt(200), abs=0.03)
    assert found.high == pytest.approx(3 + 1.96 * 2 / np.sqrt(200), abs=0.03)


def test_raters_who_agree_on_differing_items_leave_the_doubt_of_the_items() -> None:
    sums = np.tile([1.0, 5.0], (50, 10))
    _, draws = ratios(sums, np.ones_like(sums), draw(50, 20, num_draws=4000))
    assert draws.std() == pytest.approx(2 / np.sqrt(20), rel=0.05)


def test_nothing_rated() -> None:
    mean, draws = ratios(np.zeros((2, 2)), np.zeros((2, 2)), draw(2, 2))
    assert mean is None and np.isnan(draws).all()
    found = estimate(mean, draws, num_raters=2, num_items=2)
    assert (found.value, found.low, found.high) == (None, None, None)


def test_one_rater_and_one_item_have_no_interval() -> None:
    found = estimate(4.0, np.full(9, 4.0), num_raters=1, num_items=1)
    assert (found.value, found.low, found.high) == (4.0, None, None)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.0, 0.3085), (1.0, 0.6915, 1.0)])
def test_a_share_of_none_or_all_is_not_certain(share: float, low: float, high: float) -> None:
    """Clopper-Pearson for 0 of 10: 0 to 0.3085."""
    found = estimate_share(share, np.full(9, share), num_raters=10, num_items=4)
    assert found.low == pytest.approx(low, abs=1e-4) and found.high == pytest.approx(high, abs=1e-4)
