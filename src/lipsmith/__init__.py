"""Lipsmith: lip-sync any talking-face video to any speech.

The public names, loaded when first used: `import lipsmith` itself loads nothing heavy, and no part of the
installed product loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lipsmith.errors import (
    DataError,
    InputError,
    LipsmithError,
    NoFaceError,
    OutputError,
    ProvenanceError,
    RecipeError,
    RuntimeUnavailableError,
    UsageError,
    WeightsError,
)

# `train` is left to the table: a static import would let everything that imports this package reach torch.
if TYPE_CHECKING:
    from lipsmith.media.write import EncoderOptions
    from lipsmith.pipeline import LipSyncer, Progress, SyncOptions, SyncReport, sync
    from lipsmith.weights.card import WeightCard
    from lipsmith.weights.store import list_weights, load_card

__version__ = "0.1.0"

_LAZY = {
    "EncoderOptions": "lipsmith.media.write",
    "LipSyncer": "lipsmith.pipeline",
    "Progress": "lipsmith.pipeline",
    "SyncOptions": "lipsmith.pipeline",
    "SyncReport": "lipsmith.pipeline",
    "WeightCard": "lipsmith.weights.card",
    "list_weights": "lipsmith.weights.store",
    "load_card": "lipsmith.weights.store",
    "sync": "lipsmith.pipeline",
    "train": "lipsmith.training",
}

__all__ = [
    "DataError",
    "EncoderOptions",
    "InputError",
    "LipSyncer",
    "LipsmithError",
    "NoFaceError",
    "OutputError",
    "Progress",
    "ProvenanceError",
    "RecipeError",
    "RuntimeUnavailableError",
    "SyncOptions",
    "SyncReport",
    "UsageError",
    "WeightCard",
    "WeightsError",
    "__version__",
    "list_weights",
    "load_card",
    "sync",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
