import numpy as np
import pytest

from lipsmith.study.agreement import Metric, krippendorff_alpha

_ = np.nan
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C and E: four observers, twelve units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)
# The worked example of the encyclopedia's article on the coefficient: three coders, fifteen units.
THREE_CODERS = np.array(
    [
        [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
        [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
        [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
    ]
)


class TestPublishedExamples:
    @pytest.mark.parametrize(
        ("metric", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
    )
    def test_four_observers(self, metric: Metric, alpha: float) -> None:
        assert krippendorff_alpha(KRIPPENDORFF, metric) == pytest.approx(alpha, abs=5e-4)

    @pytest.mark.parametrize(("metric", "alpha"), [("nominal", 0.691), ("interval", 0.811)])
    def test_three_coders(self, metric: Metric, alpha: float) -> None:
        assert krippendorff_alpha(THREE_CODERS, metric) == pytest.approx(alpha, abs=5e-4)

    def test_two_observers_binary(self) -> None:
        # Example A: two observers, ten units.
        values = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], float)
        assert krippendorff_alpha(values, "nominal") == pytest.approx(0.095, abs=5e-4)


class TestLimits:
    @pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
    def test_perfect_agreement(self, metric: Metric) -> None:
        assert krippendorff_alpha(np.array([[1, 2, 5], [1, 2, 5]], float), metric) == 1

    def test_contrary_raters_are_worse_than_chance(self) -> None:
        # Two units, 1 and 2 in each: all observed pairs differ, and 8 of the 12 of any two values. 1 - 1 / (8 / 12).
        assert krippendorff_alpha(np.array([[1, 2], [2, 1]], float), "nominal") == pytest.approx(-0.5)

    @pytest.mark.parametrize("values", [[[1.0, _], [_, 2.0]], [[3.0, 3.0], [3.0, 3.0]], [[_, _], [_, _]]])
    def test_undefined(self, values: list[list[float]]) -> None:
        assert krippendorff_alpha(np.array(values), "interval") is None

    def test_units_with_one_value_do_not_count(self) -> None:
        lone = np.column_stack([KRIPPENDORFF, [5, _, _, _]])
        assert krippendorff_alpha(lone, "ordinal") == krippendorff_alpha(KRIPPENDORFF, "ordinal")
