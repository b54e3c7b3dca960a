"""Who rates which version of which item, in which order: balanced over systems, raters and positions, by a seed.

The paper (section 4.4.2) does not say how its 14 evaluators were given their videos; this is the plan used here:

* Raters come in blocks of as many as there are systems. A Latin square gives each rater of a block another system for
  the same item, so that a block rates every version of every item equally often, and meets every system at every
  position exactly once.
* A rater sees the items in rounds. A round shows each item once; the next round shows them again in the same order,
  each by another system, so that two versions of an item lie as far apart as they can.
* Every second block sees the items in reverse, which evens out their mean position; every two blocks the order starts
  one item later. Where a rater sees only some items, this happens each time that all items were given out evenly.
* Preference pages follow the ratings. The place of a system on the page rotates from rater to rater.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import gcd
from random import Random
from typing import Literal, TypeVar

from lipsmith.errors import UsageError

Entry = TypeVar("Entry")
Kind = Literal["rating", "check", "preference"]


@dataclass(frozen=True, slots=True)
class PlannedPage:
    """One page of one rater: an item by one system to rate, an attention check, or an item by all systems to compare.

    `systems` holds names in the order in which they are shown; `check` is the number of the check on check pages.
    """

    kind: Kind
    item: str
    systems: tuple[str, ...]
    check: int | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """How even a plan is, each as (least, most) over what is counted; equal numbers are perfect balance.

    Attributes:
        ratings_per_version: raters that rate an item by a system.
        systems_per_rater: pages of one rater that show one system.
        systems_per_position: raters that meet a system at a position among the rating pages.
        places_per_system: preference pages that show a system at a place.
        pages_per_rater: all pages of a rater, checks included.
    """

    ratings_per_version: tuple[int, int]
    systems_per_rater: tuple[int, int]
    systems_per_position: tuple[int, int]
    places_per_system: tuple[int, int] | None
    pages_per_rater: tuple[int, int]


def plan_pages(
    items: Sequence[str],
    systems: Sequence[str],
    *,
    num_raters: int,
    seed: int,
    items_per_rater: int | None = None,
    versions_per_item: int | None = None,
    compared: Sequence[str] | None = None,
    checks: Sequence[str] = (),
) -> list[list[PlannedPage]]:
    """The pages of each rater, in order. The same arguments give the same plan for ever.

    Args:
        items: names of the items, each of which every system has a version of.
        systems: names of the systems.
        num_raters: raters to plan for; a multiple of the number of systems keeps the balance exact.
        seed: of the shuffles.
        items_per_rater: items that each rater sees; None: all.
        versions_per_item: systems by which a rater sees each item, one to all; None: all.
        compared: systems on the preference pages; fewer than two: no such pages. None: all.
        checks: for each attention check the item that it shows; the checks are spread over the ratings.

    Raises:
        UsageError: nothing to rate, or a number out of its range.
    """
    compared = systems if compared is None else compared
    per_rater = len(items) if items_per_rater is None else items_per_rater
    versions = len(systems) if versions_per_item is None else versions_per_item
    _require("the number of items", len(items), 1, None)
    _require("the number of systems", len(systems), 1, None)
    _require("the number of raters", num_raters, 1, None)
    _require("the number of items a rater sees", per_rater, 1, len(items))
    _require("the number of versions a rater sees of an item", versions, 1, len(systems))

    random = Random(seed)
    order, columns = _shuffled(random, items), _shuffled(random, systems)
    # Shuffled by group: each stretch of items holds all columns of the square, and no system follows always the same.
    groups = [_shuffled(random, range(len(systems))) for _ in range(0, len(items), len(systems))]
    phases = dict(zip(order, chain.from_iterable(groups), strict=False))
    places = {item: _shuffled(random, compared) for item in order}

    cycle_length = len(items) // gcd(len(items), per_rater)
    pages = []
    for rater in range(num_raters):
        block, row = divmod(rater, len(systems))
        # Windows of items follow one another; after `cycle_length` of them each item was shown equally often.
        late, backwards = divmod(block // cycle_length, 2)
        start = block * per_rater + late
        shown = [order[(start + position) % len(items)] for position in range(per_rater)]
        if backwards:
            shown.reverse()
        ratings = [
            PlannedPage("rating", item, (columns[(row + phases[item] + turn) % len(systems)],))
            for turn in range(versions)
            for item in shown
        ]
        comparisons = (
            [
                PlannedPage("preference", item, _turned(places[item], rater))
                for item in shown[per_rater // 2 :] + shown[: per_rater // 2]
            ]
            if len(compared) > 1
            else []
        )
        pages.append(_with_checks(ratings, checks, Random(f"{seed}/{rater}")) + comparisons)
    return pages


def measure_balance(plan: Sequence[Sequence[PlannedPage]]) -> Balance:
    """Count how evenly systems lie over items, raters, positions and places of a plan."""
    systems = {system for pages in plan for page in pages if page.kind == "rating" for system in page.systems}
    items = {page.item for pages in plan for page in pages if page.kind == "rating"}
    versions, at_position, at_place = Counter[object](), Counter[object](), Counter[object]()
    per_rater: list[int] = []
    compared: set[str] = set()
    num_ratings = num_compared = 0
    for pages in plan:
        ratings = [page for page in pages if page.kind == "rating"]
        num_ratings = max(num_ratings, len(ratings))
        own = Counter(page.systems[0] for page in ratings)
        per_rater += [own[system] for system in systems]
        for position, page in enumerate(ratings):
            versions[page.item, page.systems[0]] += 1
            at_position[position, page.systems[0]] += 1
        for page in pages:
            if page.kind == "preference":
                compared.update(page.systems)
                num_compared = len(page.systems)
                at_place.update((place, system) for place, system in enumerate(page.systems))
    return Balance(
        ratings_per_version=_extent([versions[item, system] for item in items for system in systems]),
        systems_per_rater=_extent(per_rater),
        systems_per_position=_extent([at_position[p, s] for p in range(num_ratings) for s in systems]),
        places_per_system=(
            _extent([at_place[place, system] for place in range(num_compared) for system in compared])
            if compared
            else None
        ),
        pages_per_rater=_extent([len(pages) for pages in plan]),
    )


def _with_checks(ratings: list[PlannedPage], checks: Sequence[str], random: Random) -> list[PlannedPage]:
    """Checks at even distances, moved by up to a quarter of the distance so that raters cannot tell them by number."""
    pages = list(ratings)
    distance = len(ratings) / (len(checks) + 1)
    spots = [
        min(len(ratings), max(1, round((number + 1 + random.uniform(-0.25, 0.25)) * distance)))
        for number in range(len(checks))
    ]
    for number in reversed(range(len(checks))):
        pages.insert(spots[number], PlannedPage("check", checks[number], (), number))
    return pages


def _turned(places: Sequence[str], rater: int) -> tuple[str, ...]:
    """The systems, rotated by the rater's number; in reverse after each full turn, so that neighbours change too."""
    turns, shift = divmod(rater, len(places))
    turned = tuple(places[shift:]) + tuple(places[:shift])
    return turned[::-1] if turns % 2 else turned


def _shuffled(random: Random, entries: Sequence[Entry]) -> list[Entry]:
    shuffled = list(entries)
    random.shuffle(shuffled)
    return shuffled


def _extent(counts: Sequence[int]) -> tuple[int, int]:
    return (min(counts), max(counts)) if counts else (0, 0)


def _require(what: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise UsageError(f"{what[0].upper()}{what[1:]} is {value}; it must be {wanted}.")
