from collections import Counter
from itertools import pairwise

import pytest

from lipsmith.errors import UsageError
from lipsmith.study.plan import PlannedPage, measure_balance, plan_pages

ITEMS = [f"item{number}" for number in range(6)]
SYSTEMS = ["a", "b", "c"]


def ratings(pages: list[PlannedPage]) -> list[PlannedPage]:
    return [page for page in pages if page.kind == "rating"]


class TestEveryVersionOnce:
    def test_each_rater_sees_each_version_once(self) -> None:
        for pages in plan_pages(ITEMS, SYSTEMS, num_raters=5, seed=1):
            seen = Counter((page.item, page.systems[0]) for page in ratings(pages))
            assert seen == Counter({(item, system): 1 for item in ITEMS for system in SYSTEMS})

    def test_versions_of_an_item_lie_a_round_apart(self) -> None:
        for pages in plan_pages(ITEMS, SYSTEMS, num_raters=7, seed=2):
            spots = [[n for n, page in enumerate(ratings(pages)) if page.item == item] for item in ITEMS]
            assert all(later - earlier == 6 for spot in spots for earlier, later in pairwise(spot))

    def test_a_block_meets_each_system_at_each_position_once(self) -> None:
        plan = plan_pages(ITEMS, SYSTEMS, num_raters=3, seed=3)
        for position in range(18):
            assert sorted(ratings(pages)[position].systems[0] for pages in plan) == SYSTEMS

    def test_each_item_comes_first_equally_often(self) -> None:
        plan = plan_pages(ITEMS, SYSTEMS, num_raters=2 * 3 * 6, seed=3)
        first = Counter(ratings(pages)[0].item for pages in plan)
        assert first == Counter(dict.fromkeys(ITEMS, 6))


class TestOneVersionAnItem:
    def test_each_item_once_and_systems_evenly(self) -> None:
        for pages in plan_pages(ITEMS, SYSTEMS, num_raters=4, seed=4, versions_per_item=1):
            assert Counter(page.item for page in ratings(pages)) == Counter(dict.fromkeys(ITEMS, 1))
            assert Counter(page.systems[0] for page in ratings(pages)) == Counter(dict.fromkeys(SYSTEMS, 2))

    def test_a_block_rates_each_version_once(self) -> None:
        plan = plan_pages(ITEMS, SYSTEMS, num_raters=3, seed=5, versions_per_item=1)
        assert measure_balance(plan).ratings_per_version == (1, 1)

    def test_part_of_the_items(self) -> None:
        plan = plan_pages(ITEMS, SYSTEMS, num_raters=9, seed=6, versions_per_item=1, items_per_rater=4)
        assert all(len(ratings(pages)) == 4 for pages in plan)
        assert measure_balance(plan).systems_per_rater == (1, 2)
        # Three blocks of four items of six: each item twice, by each system.
        assert measure_balance(plan).ratings_per_version == (2, 2)


class TestPreference:
    def test_pages_follow_the_ratings_with_all_versions(self) -> None:
        for pages in plan_pages(ITEMS, SYSTEMS, num_raters=3, seed=7, compared=["a", "b"]):
            kinds = [page.kind for page in pages]
            assert kinds == ["rating"] * 18 + ["preference"] * 6
            assert all(sorted(page.systems) == ["a", "b"] for page in pages if page.kind == "preference")

    def test_places_are_even_after_a_turn(self) -> None:
        plan = plan_pages(ITEMS, SYSTEMS, num_raters=3, seed=8)
        assert measure_balance(plan).places_per_system == (6, 6)

    def test_nothing_to_compare(self) -> None:
        plan = plan_pages(ITEMS, ["a"], num_raters=2, seed=9)
        assert {page.kind for pages in plan for page in pages} == {"rating"}
        assert measure_balance(plan).places_per_system is None


class TestChecks:
    def test_spread_and_never_first(self) -> None:
        for pages in plan_pages(
            ITEMS, SYSTEMS, num_raters=20, seed=10, compared=(), checks=["item0", "item1"]
        ):
            spots = [n for n, page in enumerate(pages) if page.kind == "check"]
            assert [pages[spot].check for spot in spots] == [0, 1]
            assert 4 <= spots[0] <= 8 and 11 <= spots[1] <= 15

    def test_not_at_the_same_position_for_all(self) -> None:
        plan = plan_pages(ITEMS, SYSTEMS, num_raters=20, seed=10, checks=["item0"])
        assert len({[page.kind for page in pages].index("check") for pages in plan}) > 2


class TestSeed:
    def test_the_same_seed_the_same_plan(self) -> None:
        first, second, other = (plan_pages(ITEMS, SYSTEMS, num_raters=4, seed=seed) for seed in (1, 1, 2))
        assert first == second != other

    def test_more_raters_leave_the_first_ones_as_they_are(self) -> None:
        few, many = (plan_pages(ITEMS, SYSTEMS, num_raters=number, seed=1) for number in (3, 8))
        assert many[:3] == few

    def test_a_plan_stays_for_ever(self) -> None:
        pages = plan_pages(["i", "j"], ["a", "b"], num_raters=1, seed=0, checks=["i"])[0]
        assert [(page.kind, page.item, "".join(page.systems)) for page in pages] == [
            ("rating", "i", "b"),
            ("rating", "j", "a"),
            ("check", "i", ""),
            ("rating", "i", "a"),
            ("rating", "j", "b"),
            ("preference", "j", "ab"),
            ("preference", "i", "ab"),
        ]


@pytest.mark.parametrize(
    "change",
    [{"num_raters": 0}, {"items_per_rater": 7}, {"versions_per_item": 4}, {"versions_per_item": 0}],
)
def test_numbers_out_of_range(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be"):
        plan_pages(ITEMS, SYSTEMS, **{"num_raters": 2, "seed": 0, **change})
