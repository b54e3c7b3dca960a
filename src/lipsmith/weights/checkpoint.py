"""Checkpoint files ⇄ networks and weights folders. The one part of `weights` that needs torch.

Files are read without running what is pickled in them, and recognised by the names and shapes of their tensors.
"""

import dataclasses
import datetime
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any, get_args

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lipsmith.conditioning import DEFAULT_PADDING, NUM_REFERENCES, PaintedRegion, ReferenceForm
from lipsmith.errors import WeightsError
from lipsmith.models.expert import LIPS_WIDTH, LipSyncExpert
from lipsmith.models.lipgan import LipGan
from lipsmith.models.quality import VisualQualityDiscriminator
from lipsmith.models.speech2vid import Speech2Vid
from lipsmith.models.syncnet import SyncNet
from lipsmith.models.wav2lip import FACE_SIZES, GENERATORS
from lipsmith.runtime.export import Exported, Precision, export_generator
from lipsmith.weights.card import CARD_NAME, Kind, WeightCard, lead_seconds
from lipsmith.weights.file_format import CheckpointFormat, checkpoint_format, pickle_bytes, pickled_names
from lipsmith.weights.store import PACKAGED_FOLDER, check_name, file_sha256, new_folder, user_folder

Shapes = Mapping[str, tuple[int, ...]]

# What trainers put the tensors under, beside optimiser state and step counts.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# What DataParallel and torch.compile put before each name.
PREFIXES = ("module.", "_orig_mod.")

# Parity: what the published inference gives its generator. The window of sound begins at the frame's own
# time. Its detector's box, grown by ten pixels below, is about the box of `faces.track` grown by this share.
PUBLISHED_WINDOW_LEAD_SECONDS = Fraction(0)
PUBLISHED_CROP_PADDING = (0.0, 0.08, 0.0, 0.0)


@dataclass(frozen=True)
class Architecture:
    """One network that checkpoints are recognised as.

    Attributes:
        name: as in `WeightCard.architecture`.
        kind: what the network is for.
        marker: a tensor that no other kind of network has, whose first axis is `marker_channels` wide at width 1.
        marker_channels: see `marker`; 0 for a network of one width.
        face_sizes: the sides in pixels that the network can have.
        build: width, face size → network.
        paints: of a generator, what of the face crop it makes anew.
    """

    name: str
    kind: Kind
    marker: str
    marker_channels: int
    face_sizes: tuple[int, ...]
    build: Callable[[float, int], nn.Module]
    paints: PaintedRegion = "lower half"


ARCHITECTURES = (
    *(
        Architecture(
            name, "generator", "face_decoder_blocks.0.0.conv_block.0.weight", 512, FACE_SIZES, network
        )
        for name, network in GENERATORS.items()
    ),
    Architecture("lipgan", "generator", "face_code.0.conv_block.0.weight", 512, FACE_SIZES, LipGan),
    Architecture(
        "speech2vid", "generator", "identity_code.conv_block.0.weight", 256, FACE_SIZES, Speech2Vid, "face"
    ),
    Architecture(
        "lip-sync-expert",
        "expert",
        "face_encoder.16.conv_block.0.weight",
        512,
        (LIPS_WIDTH,),
        lambda width, _: LipSyncExpert(width),
    ),
    Architecture(
        "visual-quality-discriminator",
        "quality_discriminator",
        "face_encoder_blocks.4.1.conv_block.0.weight",
        512,
        FACE_SIZES,
        VisualQualityDiscriminator,
    ),
    Architecture("syncnet-v2", "syncnet", "netcnnlip.0.weight", 0, (224,), lambda _width, _size: SyncNet()),
)


@dataclass(frozen=True)
class Identification:
    """What a checkpoint file is.

    Attributes:
        kind: what the network is for.
        architecture: a name of `ARCHITECTURES`.
        width: channels relative to the published network.
        face_size: side in pixels of the face that the network sees.
        wrapped: the tensors lay under a key, beside optimiser state.
        prefixed: the names began with `module.`, as DataParallel writes them.
        file_format: what the file itself is.
        num_parameters: numbers in the network, statistics of the norms included.
        details: whatever lay beside the tensors and is a plain number or text, such as the step count.
    """

    kind: Kind
    architecture: str
    width: float
    face_size: int
    wrapped: bool
    prefixed: bool
    file_format: str
    num_parameters: int
    details: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Contents:
    tensors: dict[str, Tensor]
    wrapped: bool
    prefixed: bool
    file_format: CheckpointFormat
    details: dict[str, Any]


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file on the CPU, by the network's own names.

    Reads torch's formats, zip and legacy, and safetensors. Takes the tensors out of a wrapping such as
    `{"state_dict": …}` and a leading `module.` off the names.

    Raises:
        WeightsError: the file is something else (the message says what), is damaged, or would run code if unpickled.
    """
    return _read(Path(path)).tensors


def identify(path: str | Path) -> Identification:
    """Recognise the checkpoint file `path` by the names and shapes of its tensors.

    Raises:
        WeightsError: as `read_checkpoint`, or tensors of an unknown network.
    """
    contents = _read(Path(path))
    return _identify(contents, Path(path))


def load_network(path: str | Path, kind: Kind | None = None) -> tuple[nn.Module, Identification]:
    """The network in a checkpoint file, in float32 on the CPU and in evaluation mode, and what it is.

    Args:
        path: a checkpoint file.
        kind: refuse every other kind.

    Raises:
        WeightsError: as `identify`; another kind than asked for; weights that are not finite.
    """
    path = Path(path)
    contents = _read(path)
    found = _identify(contents, path)
    if kind is not None and found.kind != kind:
        raise WeightsError(
            f"{path} holds the network {found.architecture} ({found.kind}); what is needed is: {kind}."
        )
    for name, tensor in contents.tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{path}: {name} holds values that are not finite: its training diverged.")
    network = build(found.architecture, found.width, found.face_size)
    network.load_state_dict(contents.tensors)
    return network.eval(), found


def build(architecture: str, width: float, face_size: int) -> nn.Module:
    """A new network by the name in a card; `WeightsError` for an unknown one."""
    return architecture_of(architecture).build(width, face_size)


def architecture_of(name: str) -> Architecture:
    """The architecture of this name in a card; `WeightsError` for an unknown one."""
    for candidate in ARCHITECTURES:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in ARCHITECTURES)
    raise WeightsError(f"The architecture {name!r} is unknown; known are {known}.")


def import_checkpoint(
    path: str | Path,
    name: str,
    folder: Path | None = None,
    *,
    precision: Precision = "fp32",
    overrides: Mapping[str, Any] | None = None,
) -> WeightCard:
    """Make a weights folder of a checkpoint file, in the formats that the runtimes read.

    Args:
        path: a checkpoint in the published layout, of any width and face size that the networks know, or the weights
            of a training, which say themselves how they are to be used.
        name: of the new weights.
        folder: where the weights folder is made; the user's own by default.
        precision: of the exported generator.
        overrides: fields of the card that are known better than by the file, for example `licence`.

    Returns:
        The card, as written.

    Raises:
        WeightsError: as `load_network`; a name that is taken or cannot be one; an export that does not
            agree with torch.
    """
    path = Path(path)
    check_name(name)
    if (PACKAGED_FOLDER / name).exists():
        raise WeightsError(f"The name {name!r} belongs to weights that come with Lipsmith: choose another.")
    network, found = load_network(path)
    card = WeightCard(
        name=name,
        kind=found.kind,
        architecture=found.architecture,
        width=found.width,
        face_size=found.face_size,
        description=f"Imported from a checkpoint file ({found.file_format}).",
        source=f"{path.name}, sha256 {file_sha256(path)}",
        licence="not stated in the file; the published weights of this layout are for research only",
        use="research",
        paints=architecture_of(found.architecture).paints,
        window_lead_seconds=PUBLISHED_WINDOW_LEAD_SECONDS,
        crop_padding=PUBLISHED_CROP_PADDING if found.kind == "generator" else (0.0, 0.0, 0.0, 0.0),
    )
    card = dataclasses.replace(card, **{**known_use(path, network), **(overrides or {})})
    return write_weights(network, card, (folder or user_folder()) / name, precision=precision)


def known_use(path: Path, network: nn.Module) -> dict[str, Any]:
    """The facts for a card that a checkpoint file says of its own use, and its network tells."""
    facts = _facts_of_training(path)
    count = getattr(network, "num_references", 1)
    if NUM_REFERENCES[facts.get("reference", "frame")] != count:
        facts["reference"] = next(form for form, wanted in NUM_REFERENCES.items() if wanted == count)
    return facts


def _facts_of_training(path: Path) -> dict[str, Any]:
    """What the weights of a generator's training say of their own use; nothing where the file is of no training."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            said = file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}
    if said.get("kind") != "generator" or "lead_seconds" not in said:
        return {}
    forms: tuple[ReferenceForm, ...] = get_args(ReferenceForm)
    try:
        lead = lead_seconds(said["lead_seconds"])
    except (ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{path} says of itself what cannot be: {error}. Export it again.") from error
    return {
        "window_lead_seconds": lead,
        "crop_padding": DEFAULT_PADDING,
        # Weights of before there were several forms do not name theirs.
        "reference": next((form for form in forms if form == said.get("reference")), "frame"),
        "description": f"Trained by the recipe {said.get('recipe', 'unknown')}.",
        "recipe": said.get("recipe", ""),
        "licence": "not stated",
    }


def write_weights(
    network: nn.Module,
    card: WeightCard,
    folder: Path,
    *,
    precision: Precision = "fp32",
    calibration: Any = None,
    tensors_as: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
) -> WeightCard:
    """Write a weights folder: the tensors, a generator's export for the runtimes, the card with all hashes.

    The folder appears at its name only when complete.

    Args:
        network: in the state to be shipped.
        card: everything but `files` and, if empty, `created`.
        folder: the new folder; its name is the card's.
        precision: of the export.
        calibration: inputs for quantisation, see `lipsmith.runtime.export.export_generator`.
        tensors_as: how the safetensors file stores floating-point tensors; float16 halves it.
        metadata: what the safetensors file says of the network beside its tensors.

    Returns:
        The card, as written.

    Raises:
        WeightsError: the folder exists or cannot be written; an export that does not agree with torch.
    """
    network = network.eval()
    tensors = {
        name: (tensor.to(tensors_as) if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    with new_folder(folder) as partial:
        # Not by `save_file`: its files are for their owner alone, whatever the umask says.
        (partial / f"{card.kind}.safetensors").write_bytes(save(tensors, metadata))
        if card.kind == "generator":
            exported = export_generator(
                network, partial, precision=precision, calibration=calibration, articulation=card.articulation
            )
            if precision == "int8":
                card = dataclasses.replace(card, scores={**card.scores, "int8": _agreement(exported)})
        files = {path.name: file_sha256(path) for path in sorted(partial.iterdir())}
        created = card.created or datetime.datetime.now(datetime.UTC).date().isoformat()
        card = dataclasses.replace(card, files=files, created=created)
        card.write(partial / CARD_NAME)
    return card


def _agreement(exported: Exported) -> dict[str, Any]:
    """What the card says of 8-bit weights: how far their faces are from those of the same weights in float32."""
    facts: dict[str, Any] = {
        "psnr_lower_db": round(exported.psnr_lower_db, 1),
        "worst_psnr_lower_db": round(exported.worst_psnr_lower_db, 1),
        "samples": exported.num_rows,
    }
    return facts | ({"kept_in_float": len(exported.kept_in_float)} if exported.kept_in_float else {})


def _read(path: Path) -> _Contents:
    file_format = checkpoint_format(path)
    if file_format is CheckpointFormat.SAFETENSORS:
        try:
            loaded: Any = load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is a damaged safetensors file ({error}). Fetch it again.") from error
    else:
        loaded = _load_torch(path, file_format)
    tensors, wrapped, details = _unwrap(loaded, path)
    prefixed = False
    while tensors and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), None)):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        prefixed = True
    return _Contents(tensors, wrapped, prefixed, file_format, details)


def _load_torch(path: Path, file_format: CheckpointFormat) -> Any:
    try:
        # Mapping the file spares reading the optimiser state, two thirds of a published checkpoint.
        mapped = file_format is CheckpointFormat.TORCH_ZIP
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        harmless = ("torch.", "collections.OrderedDict")
        named = pickled_names(pickle_bytes(path, file_format))
        names = [name for name in named if not name.startswith(harmless)]
        if not names:
            raise WeightsError(f"{path} is a damaged torch checkpoint. Fetch it again.") from error
        raise WeightsError(
            f"{path} would run code when loaded: its pickle names {', '.join(names[:3])}. It was not loaded. "
            "If you trust it, save its state_dict() alone, or as safetensors."
        ) from error
    except Exception as error:  # a file cut short makes torch's readers fail in a dozen ways
        raise WeightsError(
            f"{path} is a damaged torch checkpoint ({type(error).__name__}). Fetch it again."
        ) from error


def _unwrap(loaded: Any, path: Path) -> tuple[dict[str, Tensor], bool, dict[str, Any]]:
    """The tensors by name, whether they lay in a wrapping, and the plain values beside them."""
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not tensors by name.")
    wrapper = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
    found = loaded if wrapper is None else loaded[wrapper]
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if len(tensors) < len(found) or not tensors:
        keys = ", ".join(map(str, list(found)[:5])) or "nothing"
        raise WeightsError(f"{path} holds no tensors by name that could be a network's; its keys are {keys}.")
    beside = {} if wrapper is None else loaded
    plain = (str, bool, int, float)
    details = {str(key): value for key, value in beside.items() if isinstance(value, plain)}
    return tensors, wrapper is not None, details


def _identify(contents: _Contents, path: Path) -> Identification:
    shapes = {name: tuple(tensor.shape) for name, tensor in contents.tensors.items()}
    # The generator's marker comes first: the discriminator's is among the names of both.
    candidates = [architecture for architecture in ARCHITECTURES if shapes.get(architecture.marker)]
    if not candidates:
        listing = ", ".join(list(shapes)[:4])
        raise WeightsError(
            f"{path} holds the tensors of an unknown network: {listing}{', …' if len(shapes) > 4 else ''} "
            f"({len(shapes)} in all)."
        )
    closest: tuple[int, str, str] | None = None
    for architecture in candidates:
        for width, face_size in product(_possible_widths(architecture, shapes), architecture.face_sizes):
            differences = _differences(shapes, _shapes(architecture, width, face_size))
            if not differences:
                return Identification(
                    kind=architecture.kind,
                    architecture=architecture.name,
                    width=width,
                    face_size=face_size,
                    wrapped=contents.wrapped,
                    prefixed=contents.prefixed,
                    file_format=contents.file_format.value,
                    num_parameters=sum(tensor.numel() for tensor in contents.tensors.values()),
                    details=contents.details,
                )
            if closest is None or len(differences) < closest[0]:
                closest = (len(differences), differences[0], architecture.name)
    assert closest is not None
    raise WeightsError(
        f"{path} looks like the network {closest[2]}, but in another layout "
        f"(tensors that differ: {closest[0]}; the first: {closest[1]})."
    )


def _possible_widths(architecture: Architecture, shapes: Shapes) -> list[float]:
    """The widths that give the marker's channels, the roundest first: several round to the same channels."""
    if not architecture.marker_channels:
        return [1.0]
    channels = shapes[architecture.marker][0]
    nearest = channels / architecture.marker_channels
    step = 4 / architecture.marker_channels  # half of the channels' own step of 8
    hundredths = range(round(100 * (nearest - step)), round(100 * (nearest + step)) + 1)
    return list(dict.fromkeys([nearest, *(count / 100 for count in hundredths if count > 0)]))


def _shapes(architecture: Architecture, width: float, face_size: int) -> Shapes:
    with torch.device("meta"):
        network = architecture.build(width, face_size)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _differences(found: Shapes, expected: Shapes) -> list[str]:
    """One phrase for each tensor that is missing, unexpected or of another shape."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    reshaped = [
        f"{name} is {found[name]} in place of {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    unexpected = [f"{name} is unexpected" for name in found if name not in expected]
    return missing + reshaped + unexpected
