"""Results that are kept as soon as they are there, so that no work is done twice."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from lipsmith.data.storage import room_for

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class LineStore(Generic[Value]):
    """Values by key, one line of JSON for each.

    A line is written as soon as its value is there; of two with one key the later counts. A last line that was cut off
    is passed over.

    Args:
        path: a `.jsonl` file; it need not exist.
        name: of the value in a line, beside `key`.
        to_json: the value as JSON-ready values.
        from_json: back from them; `ValueError`, `KeyError` or `TypeError` where they are none.
    """

    def __init__(
        self, path: Path, name: str, to_json: Callable[[Value], Any], from_json: Callable[[Any], Value]
    ) -> None:
        self.path = path
        self._name, self._to_json = name, to_json
        self._values: dict[str, Value] = {}
        with room_for(path):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
            self._is_broken = bool(lines) and not path.read_bytes().endswith(b"\n")
        for line in lines:
            try:
                values = json.loads(line)
                self._values[values["key"]] = from_json(values[name])
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: a line that is no %s is passed over", path, name)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Value | None:
        """The value kept under `key`, if any."""
        return self._values.get(key)

    def keep(self, key: str, value: Value) -> None:
        """Keep `value`; `OutputError` where the file cannot be written."""
        self._values[key] = value
        # In ASCII: names of files may hold bytes that are no text, or what else ends a line.
        line = json.dumps({"key": key, self._name: self._to_json(value)}, allow_nan=False)
        with room_for(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if self._is_broken else "") + line + "\n")
        self._is_broken = False
