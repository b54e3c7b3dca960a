"""Work is spread over processes: every item's result comes back, and an error comes out as it is."""

import operator
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

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


class RayTaskError(Exception):
    """As Ray's: its words are a traceback."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback (most recent call last): … {cause}")
        self.cause = cause


def make_ray(*, is_running: bool = True) -> ModuleType:
    """What of Ray is called, in this process."""
    ray: Any = ModuleType("ray")

    def init(**_: object) -> None:
        if not is_running:
            raise ConnectionError("Could not find any running Ray\ninstance.")

    def get(tasks: list[Callable[[], object]]) -> list[object]:
        try:
            return [task() for task in tasks]
        except Exception as error:
            raise RayTaskError(error) from error

    ray.init, ray.get, ray.shutdown = init, get, lambda: None
    ray.cluster_resources = lambda: {"CPU": 1.0}
    ray.remote = lambda function: SimpleNamespace(remote=lambda *given: lambda: function(*given))
    ray.wait = lambda tasks: (tasks[:1], tasks[1:])
    ray.exceptions = SimpleNamespace(RayTaskError=RayTaskError)
    return ray  # type: ignore[no-any-return]


def test_on_ray_results_come_back_and_an_error_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", make_ray())
    assert list(spread_work(operator.neg, [1, 2, 3], ray="local")) == [-1, -2, -3]
    with pytest.raises(TypeError, match=r"^bad operand"):
        list(spread_work(operator.neg, [1, "two"], ray="local"))


def test_a_cluster_that_is_not_there_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", make_ray(is_running=False))
    with pytest.raises(
        RuntimeUnavailableError, match="'auto' cannot be reached: Could not find any running Ray inst"
    ):
        list(spread_work(operator.neg, [1], ray="auto"))
