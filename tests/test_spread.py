"""Work is spread over processes: every item's result comes back, and an error comes out as it is."""

import operator
import sys

import pytest

from lipsmith.errors import RuntimeUnavailableError
from lipsmith.spread import spread_work


def test_one_process_is_this_one_and_takes_items_as_they_are_wanted() -> None:
    given = []

    def items():
        for item in range(3):
            given.append(item)
            yield item

    results = spread_work(lambda item: -item, items(), jobs=1)
    assert (next(results), given) == (0, [0])
    assert (list(results), given) == ([-1, -2], [0, 1, 2])


def test_several_processes() -> None:
    assert sorted(spread_work(operator.neg, range(9), jobs=2)) == list(range(-8, 1))


def test_an_error_ends_the_work() -> None:
    with pytest.raises(TypeError, match="bad operand"):
        list(spread_work(operator.neg, [1, "two", 3], jobs=2))


def test_ray_is_missed_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RuntimeUnavailableError, match=r"lipsmith\[ray\]"):
        next(spread_work(operator.neg, [1], ray="auto"))
