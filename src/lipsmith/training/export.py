"""From a finished training, or any checkpoint of a generator, to a weights folder: installed, shipped, run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lipsmith import __version__
from lipsmith.conditioning import DEFAULT_PADDING
from lipsmith.data.clips import ClipRecord, read_index
from lipsmith.data.samples import DataSelection
from lipsmith.errors import RecipeError, UsageError
from lipsmith.models.expert import LIPS_WIDTH
from lipsmith.runtime.base import SAFETENSORS_NAME
from lipsmith.timebase import expert_lead
from lipsmith.training.calibration import DRAWN, Batch, calibration_batches, drawn_batches, video_batches
from lipsmith.training.expert import load_expert
from lipsmith.training.fine_tuning import expert_metadata
from lipsmith.training.recipe import ExpertRecipe, GeneratorRecipe, load_recipe
from lipsmith.weights.card import CARD_NAME, WeightCard
from lipsmith.weights.checkpoint import (
    PUBLISHED_CROP_PADDING,
    PUBLISHED_WINDOW_LEAD_SECONDS,
    Precision,
    architecture_of,
    known_use,
    load_network,
    write_weights,
)
from lipsmith.weights.store import check_name, file_sha256, is_installed, require_free, resolve

_UNNAMED = "footage of no named collection"
_OPEN_USES = ("open", "any")


def export_weights(
    source: Path | str,
    folder: Path | str,
    *,
    data: Path | str | None = None,
    calibrate: Sequence[Path | str] = (),
    precision: Precision = "fp32",
    overrides: Mapping[str, Any] | None = None,
) -> WeightCard:
    """Write a weights folder of a generator, refused unless the export agrees with PyTorch, or of an expert.

    Args:
        source: The run folder of a training, whose best weights are taken with what its recipe says of sound and
            crop; a weights folder or the name of installed weights of a generator, whose card is kept; or the
            checkpoint file of a generator, which is taken to be used like the published ones.
        folder: The new weights folder; its name is the weights'.
        data: Folder of prepared clips: those that the run trained on calibrate the export and are listed in the
            card.
        calibrate: Videos of talking faces that calibrate it, or `DRAWN`. int8 needs these or `data`.
        precision: Of the export; also how the tensors are stored, in half the bytes unless it is "fp32".
        overrides: Fields of the card that are known better, for example `licence` or `scores`.

    Returns:
        The card, as written.

    Raises:
        WeightsError: No such checkpoint, not a generator's, the folder exists, or outputs that do not agree.
        RecipeError: The run folder's recipe is missing or damaged.
        DataError: The data cannot be read.
        InputError: A video cannot be read.
        NoFaceError: A video shows no face.
        UsageError: int8 with nothing to calibrate it, or of an expert.
    """
    folder = Path(folder).absolute()
    check_name(folder.name)
    require_free(folder)  # before calibration, which takes minutes
    run = Path(source)
    if not is_installed(source) and run.is_dir() and not (run / CARD_NAME).is_file():
        recipe = _recipe_of(run)
        if isinstance(recipe, ExpertRecipe):
            return _export_expert(run, recipe, folder, data, precision, overrides or {})
    if precision == "int8" and data is None and not calibrate:
        raise UsageError(
            "int8 needs faces and speech to find its ranges: name a video of a talking face with --calibrate, a "
            f"prepared folder with --data, or say --calibrate {DRAWN} for drawn people."
        )
    checkpoint, card, selection = _source(source, folder.name)
    network, found = load_network(checkpoint, "generator")
    if checkpoint == run:
        card = replace(card, **known_use(checkpoint, network))
    card = replace(
        card,
        kind=found.kind,
        architecture=found.architecture,
        width=found.width,
        face_size=found.face_size,
        paints=architecture_of(found.architecture).paints,
        source=f"{card.source or checkpoint.name}, sha256 {file_sha256(checkpoint)}, written by Lipsmith {__version__}",
    )
    batches: list[Batch] = []
    if data is not None:
        records = selection.records(read_index(Path(data)), "train")
        if card.recipe and not card.trained_on:
            card = replace(card, **_facts(records))
        batches += calibration_batches(Path(data), records, found.face_size, card.reference)
    videos = [Path(video) for video in calibrate if str(video) != DRAWN]
    if videos:
        batches += video_batches(videos, card)
    if len(videos) < len(calibrate):
        batches += drawn_batches(found.face_size, card.reference)
    return write_weights(
        network,
        replace(card, **(overrides or {})),
        folder,
        precision=precision,
        calibration=batches or None,
        tensors_as=torch.float32 if precision == "fp32" else torch.float16,
    )


def _export_expert(
    run: Path,
    recipe: ExpertRecipe,
    folder: Path,
    data: Path | str | None,
    precision: Precision,
    overrides: Mapping[str, Any],
) -> WeightCard:
    """An expert needs no runtime's files: its tensors and a card."""
    if precision == "int8":
        raise UsageError(f"{run} holds an expert: export it as fp16 or fp32; int8 is for generators.")
    file = run / "best.safetensors"
    card = WeightCard(
        name=folder.name,
        kind="expert",
        architecture=f"{recipe.model.form}-expert",
        width=recipe.model.width,
        face_size=LIPS_WIDTH,
        window_lead_seconds=expert_lead(recipe.model.frames),
        crop_padding=DEFAULT_PADDING,
        description=recipe.description,
        licence="not stated",
        recipe=recipe.name,
        source=f"{file.name}, sha256 {file_sha256(file)}, written by Lipsmith {__version__}",
    )
    if data is not None:
        card = replace(card, **_facts(recipe.data.selection().records(read_index(Path(data)), "train")))
    return write_weights(
        load_expert(run),
        replace(card, **overrides),
        folder,
        tensors_as=torch.float32 if precision == "fp32" else torch.float16,
        metadata=expert_metadata(run),
    )


def _source(source: Path | str, name: str) -> tuple[Path, WeightCard, DataSelection]:
    """The file with the tensors, what is known of them as the card of `name`, and which clips they may have seen."""
    path = Path(source)
    everything = DataSelection(hold_out=0)
    if is_installed(source) or (path / CARD_NAME).is_file() or not path.exists():
        former, folder = resolve(str(source))
        # Scores and hashes are those of other files.
        card = replace(
            former, name=name, source=f"{former.name}, {former.source}", files={}, scores={}, created=""
        )
        return folder / SAFETENSORS_NAME, card, everything
    blank = WeightCard(
        name=name, kind="generator", architecture="", width=1, face_size=0, licence="not stated"
    )
    if not path.is_dir():
        card = replace(
            blank,
            window_lead_seconds=PUBLISHED_WINDOW_LEAD_SECONDS,
            crop_padding=PUBLISHED_CROP_PADDING,
        )
        return path, card, everything
    recipe = _recipe_of(path)
    assert isinstance(recipe, GeneratorRecipe)  # experts go another way
    card = replace(
        blank,
        window_lead_seconds=recipe.lead_seconds,
        crop_padding=DEFAULT_PADDING,
        reference=recipe.batch.reference,
        description=recipe.description,
        recipe=recipe.name,
    )
    return path / "best.safetensors", card, recipe.data.selection()


def _facts(records: Sequence[ClipRecord]) -> dict[str, Any]:
    """What the card says of the clips that weights were trained on."""
    return {
        "use": "any" if records and all(record.use in _OPEN_USES for record in records) else "research",
        "trained_on": tuple(sorted({record.collection or _UNNAMED for record in records})),
    }


def _recipe_of(run: Path) -> ExpertRecipe | GeneratorRecipe:
    path = run / "recipe.json"
    if not path.is_file():
        raise RecipeError(f"{run} is not the folder of a training: {path.name} cannot be read.")
    return load_recipe(path)
