"""Run a generator on arrays.

`resolve_runtime(name, folder)` gives a `GeneratorRuntime`; `lipsmith.runtime.export` (needs torch) makes what
the runtimes read.
"""

from lipsmith.runtime.base import RUNTIMES, GeneratorRuntime, resolve_runtime

__all__ = ["RUNTIMES", "GeneratorRuntime", "resolve_runtime"]
