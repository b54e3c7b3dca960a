"""What the tests of training share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _undrawn() -> Iterator[None]:
    """Curves and plots of every validation take longer than these trainings; a test that looks at them undoes this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lipsmith.training.run.draw_curves", lambda *_: None)
        patch.setattr("lipsmith.training.expert.draw_accuracy", lambda *_, **__: None)
        yield


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn after all."""
    from lipsmith.evaluation.sync_curves import draw_accuracy
    from lipsmith.training.curves import draw_curves

    monkeypatch.setattr("lipsmith.training.run.draw_curves", draw_curves)
    monkeypatch.setattr("lipsmith.training.expert.draw_accuracy", draw_accuracy)
