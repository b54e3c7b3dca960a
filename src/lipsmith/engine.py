"""The one door to OpenVINO, which runs every network of the installed product on a CPU.

It stands beside the stages, not in one, because the face detector and the generator both come through it.
"""

import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from lipsmith.errors import RuntimeUnavailableError

_IMPORT_LOCK = threading.Lock()


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Inside, `openvino_telemetry` cannot be imported.

    Merely importing `openvino` (or `nncf`) reports to a statistics server unless a file in the home folder
    says no. Lipsmith does nothing over a network that it was not asked for. Both carry a stand-in for an
    absent telemetry package and keep to whichever they found when first imported.
    """
    with _IMPORT_LOCK:
        blocked = {name: module for name, module in sys.modules.items() if _is_telemetry(name)}
        for name in blocked:
            del sys.modules[name]
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            del sys.modules["openvino_telemetry"]
            sys.modules.update(blocked)


def _is_telemetry(module_name: str) -> bool:
    return module_name.partition(".")[0] == "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The package `openvino`, imported without telemetry.

    Raises:
        RuntimeUnavailableError: it is not installed, or not for this processor.
    """
    if (imported := sys.modules.get("openvino")) is not None:
        return imported
    try:
        with without_telemetry():
            return importlib.import_module("openvino")
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"OpenVINO cannot be imported ({error}). Install it with: pip install openvino"
        ) from error


def compile_on_cpu(
    model: Any, *, threads: int | None = None, options: Mapping[str, Any] | None = None
) -> Any:
    """An `openvino.CompiledModel` of `model` (an `openvino.Model`) for the CPU, computed in float32.

    `threads`: most threads to use; None leaves the number to OpenVINO (one a physical core). float32 is asked
    for because on processors with bf16 instructions the default is bf16: other results on other machines, and
    slower. `options` are further OpenVINO properties. Nothing is cached on disk: a network of this project
    compiles in less than half a second, and its cached form would be as large as the weights.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed.
    """
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    settings.update(options or {})
    return import_openvino().Core().compile_model(model, "CPU", settings)
