"""The one door to OpenVINO, which runs every network of the installed product on a CPU.

It stands beside the stages, not in one, because the face detector and the generator both come through it.
"""

import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from lipsmith.compiled import compiled_path, keep_compiled, read_compiled
from lipsmith.errors import RuntimeUnavailableError
from lipsmith.machine import core_quota, is_learning_on

_IMPORT_LOCK = threading.RLock()
_CONVERTER = "openvino.tools.ovc"


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
    try:
        with _IMPORT_LOCK:  # what another thread is importing is in `sys.modules` before it is whole
            if (imported := sys.modules.get("openvino")) is not None:
                return imported
            return _import_without_converter()
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"OpenVINO cannot be imported ({error}). Install it with: pip install openvino"
        ) from error


def _import_without_converter() -> ModuleType:
    """Import the package, but `convert_model` only when it is asked for: it takes as long as all the rest."""
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]
    try:
        with without_telemetry():
            ov = importlib.import_module("openvino")
    finally:
        del sys.modules[_CONVERTER]

    def imported_late(name: str) -> Any:
        if name != "convert_model":
            raise AttributeError(f"module 'openvino' has no attribute {name!r}")
        with _IMPORT_LOCK, without_telemetry():
            return importlib.import_module(_CONVERTER).convert_model

    ov.__getattr__ = imported_late  # type: ignore[method-assign]
    return ov


def compile_on_cpu(
    model: Any,
    *,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    known_by: str | None = None,
) -> Any:
    """An `openvino.CompiledModel` of `model` (an `openvino.Model`) for the CPU, computed in float32.

    `threads`: most threads to use; None leaves the number to OpenVINO (one a physical core), which knows no quotas of
    containers: there it is the quota. float32 is asked for because on processors with bf16 instructions the default is
    bf16: other results on other machines, and slower. `options` are further OpenVINO properties. `known_by`: a name
    that belongs to this very network, weights included; with it the compiled network is kept for the next start
    (`lipsmith.compiled`), and `model` may be a function that is called for the network only where none is kept.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed.
    """
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is None:
        threads = core_quota()
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    settings.update(options or {})
    ov = import_openvino()
    core = ov.Core()
    path = None
    if known_by is not None and is_learning_on():
        path = compiled_path(known_by, ov.get_version(), repr(sorted(settings.items())))
        if (kept := read_compiled(path)) is not None:
            with suppress(RuntimeError):  # of another make of OpenVINO, in spite of its version
                return core.import_model(kept, "CPU", settings)
    compiled = core.compile_model(model() if callable(model) else model, "CPU", settings)
    if path is not None:
        keep_compiled(path, compiled.export_model().getvalue())
    return compiled
