"""From a finished training, or any checkpoint of a generator, to a weights folder that the runtimes read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from lipsmith import __version__
from lipsmith.conditioning import ReferenceForm, mask_lower_half
from lipsmith.data.clips import Clip, ClipRecord, load_clip, read_index
from lipsmith.data.samples import DataSelection
from lipsmith.errors import RecipeError, UsageError
from lipsmith.faces.crop import DEFAULT_PADDING
from lipsmith.reference import clip_references
from lipsmith.runtime.base import FloatArray
from lipsmith.training.recipe import GeneratorRecipe
from lipsmith.weights.card import WeightCard
from lipsmith.weights.checkpoint import (
    PUBLISHED_CROP_PADDING,
    PUBLISHED_WINDOW_LEAD_SECONDS,
    Precision,
    load_network,
    write_weights,
)
from lipsmith.weights.store import check_name, file_sha256

# A few hundred samples of many people fix the ranges of 8-bit numbers; more of them change nothing.
CALIBRATION_CLIPS = 96
_CALIBRATION_FRAMES = 4
_UNNAMED = "footage of no named collection"
_OPEN_USES = ("open", "any")


def export_weights(
    source: Path | str,
    folder: Path | str,
    *,
    data: Path | str | None = None,
    precision: Precision = "fp32",
    overrides: Mapping[str, Any] | None = None,
) -> WeightCard:
    """Write a weights folder of a generator, refused unless the export agrees with PyTorch.

    Args:
        source: The run folder of a generator's training, whose best weights are taken with what its recipe says of
            sound and crop; or a checkpoint file, which is taken to be used like the published ones.
        folder: The new weights folder; its name is the weights'.
        data: Folder of prepared clips: those that the run trained on calibrate the export and are listed in the
            card. Needed for int8.
        precision: Of the export; also how the tensors are stored, in half the bytes unless it is "fp32".
        overrides: Fields of the card that are known better, for example `licence` or `scores`.

    Returns:
        The card, as written.

    Raises:
        WeightsError: No such checkpoint, not a generator's, the folder exists, or outputs that do not agree.
        RecipeError: The run folder's recipe is missing, damaged or not a generator's.
        DataError: The data cannot be read.
        UsageError: int8 without data.
    """
    source, folder = Path(source), Path(folder).absolute()
    check_name(folder.name)
    if precision == "int8" and data is None:
        raise UsageError(
            "int8 needs real faces and speech to find its ranges: name a prepared folder as data."
        )
    recipe = _recipe_of(source) if source.is_dir() else None
    checkpoint = source / "best.safetensors" if recipe else source
    network, found = load_network(checkpoint, "generator")
    selection = recipe.data.selection() if recipe else DataSelection(hold_out=0)
    records = _training_records(Path(data), selection) if data is not None else []
    form: ReferenceForm = "steady" if recipe and recipe.batch.reference == "steady" else "frame"
    card = WeightCard(
        name=folder.name,
        kind=found.kind,
        architecture=found.architecture,
        width=found.width,
        face_size=found.face_size,
        window_lead_seconds=recipe.lead_seconds if recipe else PUBLISHED_WINDOW_LEAD_SECONDS,
        crop_padding=DEFAULT_PADDING if recipe else PUBLISHED_CROP_PADDING,
        reference=form,
        description=recipe.description if recipe else "",
        licence="not stated",
        use="any" if records and all(record.use in _OPEN_USES for record in records) else "research",
        trained_on=tuple(sorted({record.collection or _UNNAMED for record in records})) if recipe else (),
        source=f"{checkpoint.name}, sha256 {file_sha256(checkpoint)}, written by Lipsmith {__version__}",
        recipe=recipe.name if recipe else "",
    )
    calibration = (
        None if data is None else list(calibration_batches(Path(data), records, found.face_size, form))
    )
    return write_weights(
        network,
        replace(card, **(overrides or {})),
        folder,
        precision=precision,
        calibration=calibration,
        tensors_as=torch.float32 if precision == "fp32" else torch.float16,
    )


def calibration_batches(
    data: Path, records: Sequence[ClipRecord], face_size: int, reference: ReferenceForm = "frame"
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """What the generator is given at inference, from clips all over `records`: mels (n, 1, 80, 16), faces (n, 6, S, S).

    References are those of inference. Every second clip hears the clip before it, as a video that is dubbed does.
    """
    chosen = [
        records[i] for i in np.linspace(0, len(records) - 1, min(CALIBRATION_CLIPS, len(records))).astype(int)
    ]
    heard: Clip | None = None
    for number, record in enumerate(chosen):
        if record.face_size != face_size:
            raise UsageError(
                f"{data} holds faces of {record.face_size} pixels, the generator takes {face_size}: "
                f"prepare with --face-size {face_size}."
            )
        clip = load_clip(record, data)
        count = min(_CALIBRATION_FRAMES, len(clip))
        first = (len(clip) - count) // 2
        # The last frame is shown once more in front, so that a kept reference is not the frame itself.
        pictures = clip.faces(first, count)
        kept = clip_references(reference, np.concatenate([pictures[-1:], pictures]))[1:]
        shown, references = (
            images.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255) for images in (pictures, kept)
        )
        speech = heard if number % 2 and heard is not None else clip
        windows = speech.windows()[:: max(1, len(speech) // count)][:count]
        faces = np.concatenate([mask_lower_half(shown), references], axis=1)
        yield windows, faces[: len(windows)]
        heard = clip


def _recipe_of(run: Path) -> GeneratorRecipe:
    path = run / "recipe.json"
    try:
        return GeneratorRecipe.model_validate(json.loads(path.read_text()))
    except OSError as error:
        raise RecipeError(f"{run} is not the folder of a training: {path.name} cannot be read.") from error
    except (ValidationError, ValueError) as error:
        raise RecipeError(
            f"{path} is not a generator's recipe: only generators are exported for the runtimes."
        ) from error


def _training_records(data: Path, selection: DataSelection) -> list[ClipRecord]:
    return selection.records(read_index(data), "train")
