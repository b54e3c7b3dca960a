"""The card of a set of weights: what it is, its origin, what it may be used for, and its files' hashes.

A card is a TOML file beside the weights, written once and read by people as much as by the program.
"""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from lipsmith.conditioning import PaintedRegion, ReferenceForm
from lipsmith.errors import WeightsError

CARD_NAME = "card.toml"

Kind = Literal["generator", "expert", "quality_discriminator", "syncnet"]
Use = Literal["any", "research"]


@dataclass(frozen=True, kw_only=True)
class WeightCard:
    """One set of weights.

    Attributes:
        name: what the user types; also the name of the folder.
        kind: what the network is for.
        architecture: name of the network, `"wav2lip"` for the paper's generator.
        width: channels relative to the published network.
        face_size: side in pixels of the face that the network sees.
        window_lead_seconds: how much earlier than its frame a window of sound begins (`timebase.window_start`).
        crop_padding: what the crop adds to the tracked box: top, bottom, left, right as shares of the box.
        reference: what a generator sees beside the masked face, see `lipsmith.reference`.
        paints: what of the face crop a generator makes anew.
        articulation: how far a generator moves the mouth, see `lipsmith.runtime.resolve_runtime`; 1 is as trained.
        description: a sentence or two.
        licence: of the weights, an SPDX expression where there is one.
        use: `"research"` where the training data forbids anything else.
        trained_on: the data sets.
        source: where the file came from.
        recipe: the training recipe that makes these weights again.
        created: date, ISO 8601.
        files: file name → sha256, in hexadecimal, of each file in the folder except the card.
        scores: measured numbers, by the name of the measure; tables may be nested.
    """

    name: str
    kind: Kind
    architecture: str
    width: float
    face_size: int
    window_lead_seconds: Fraction = Fraction(0)
    crop_padding: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    reference: ReferenceForm = "frame"
    paints: PaintedRegion = "lower half"
    articulation: float = 1.0
    description: str = ""
    licence: str = "unknown"
    use: Use = "research"
    trained_on: tuple[str, ...] = ()
    source: str = ""
    recipe: str = ""
    created: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """One hash that names exactly these files: of the lines `hash  name`, sorted by name."""
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as in TOML and JSON; the lead is a string such as `"1/25"`."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values["window_lead_seconds"] = str(self.window_lead_seconds)
        for name in ("crop_padding", "trained_on"):
            values[name] = list(values[name])
        for name in ("files", "scores"):
            values[name] = dict(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> "WeightCard":
        """Check and convert the values of a TOML file; `where` names the file in error messages."""
        known = {entry.name for entry in dataclasses.fields(cls)}
        required = {"name", "kind", "architecture", "width", "face_size"}
        if unknown := sorted(set(values) - known):
            raise WeightsError(
                f"{where}: unknown field {unknown[0]!r}; a card has {', '.join(sorted(known))}."
            )
        if missing := sorted(required - set(values)):
            raise WeightsError(f"{where}: the field {missing[0]!r} is missing.")
        for name, allowed in (
            ("kind", get_args(Kind)),
            ("use", get_args(Use)),
            ("reference", get_args(ReferenceForm)),
            ("paints", get_args(PaintedRegion)),
        ):
            if name in values and values[name] not in allowed:
                raise WeightsError(f"{where}: {name} is {values[name]!r}; it can be {', '.join(allowed)}.")
        converted = dict(values)
        try:
            converted["width"] = float(values["width"])
            converted["face_size"] = int(values["face_size"])
            converted["articulation"] = float(values.get("articulation", 1.0))
            converted["window_lead_seconds"] = lead_seconds(values.get("window_lead_seconds", "0"))
            top, bottom, left, right = map(float, values.get("crop_padding", (0, 0, 0, 0)))
            converted["crop_padding"] = (top, bottom, left, right)
            converted["trained_on"] = tuple(map(str, values.get("trained_on", ())))
            converted["files"] = {str(name): str(digest) for name, digest in values.get("files", {}).items()}
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise WeightsError(f"{where}: a value of the card has the wrong form ({error}).") from error
        for name in converted["files"]:
            if Path(name).name != name:
                raise WeightsError(f"{where}: the file {name!r} is not a plain file name.")
        return cls(**converted)

    @classmethod
    def read(cls, path: Path) -> "WeightCard":
        """The card in the TOML file `path`; `WeightsError` where it cannot be read or is not a card."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise WeightsError(f"The card {path} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:  # also of letters, numbers and depths that nobody means
            raise WeightsError(f"The card {path} is not TOML: {error}.") from error
        return cls.from_dict(values, str(path))

    def write(self, path: Path) -> None:
        """Write the card as TOML, without what is empty or says nothing of this kind of network."""
        of_generators = () if self.kind == "generator" else ("reference", "paints", "articulation")
        values = {
            name: value
            for name, value in self.to_dict().items()
            if value not in ("", [], {}) and name not in of_generators
        }
        # The name of a source may hold bytes that are no text.
        path.write_text("\n".join(_toml_lines(values)) + "\n", encoding="utf-8", errors="replace")


def lead_seconds(value: str | float) -> Fraction:
    """A lead as cards and checkpoints state it, such as `"1/25"`; raises ValueError, TypeError or ArithmeticError."""
    if isinstance(value, str) and "e" in value.lower():  # 1e999999999 would take hours and all memory
        raise ValueError(f"{value!r} is no lead in seconds, such as 1/25")
    return Fraction(value)


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """`table` as lines of TOML: its plain values first, as the format demands, then its tables."""
    lines = [f"[{'.'.join(map(_toml_key, path))}]"] if path else []
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines += [f"{_toml_key(key)} = {_toml_value(table[key])}" for key in table if key not in tables]
    for key, value in tables.items():
        lines += ["", *_toml_lines(value, (*path, key))]
    return lines


def _toml_key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, float):
        return repr(value)  # inf and nan are spelt alike in TOML
    if isinstance(value, str | bool | int):
        # JSON's strings, booleans and integers are TOML's, but for the one control character that JSON
        # leaves bare.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"{value!r} has no form in a card")
