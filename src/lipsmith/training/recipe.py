"""Training recipes: complete, typed, in YAML. An unknown or ill-typed field is an error that names the field."""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lipsmith.conditioning import ReferenceForm
from lipsmith.data.augment import FaceAugmentation, SoundAugmentation
from lipsmith.data.samples import DataSelection
from lipsmith.errors import RecipeError
from lipsmith.timebase import EXPERT_FRAMES

# A weight over the training: [[step, value], …], linear in between, constant outside. One number is constant.
Schedule = float | list[tuple[int, float]]
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataRecipe(_Strict):
    """Which prepared clips are used, and who is held out; see `lipsmith.data.samples.DataSelection`."""

    uses: list[str] = []
    leave_out: list[str] = []
    validation: list[str] = []
    test: list[str] = []
    crowds: dict[str, int] = {}
    max_offset_seconds: float = 0.3
    min_offset_confidence: float = 0.0
    hold_out: Share = 0.1
    split_seed: int = 0

    def selection(self) -> DataSelection:
        """The same as the data package takes it."""
        return DataSelection(
            tuple(self.uses),
            tuple(self.leave_out),
            tuple(self.validation),
            tuple(self.test),
            tuple(self.crowds.items()),
            self.max_offset_seconds,
            self.min_offset_confidence,
            self.hold_out,
            self.split_seed,
        )


class FaceRecipe(_Strict):
    """Changes to pictures; see `lipsmith.data.augment.FaceAugmentation`."""

    flip: Share = 0.5
    shift: float = 0.05
    scale: float = 0.08
    rotate: float = 4.0
    colour: float = 0.15
    blur: Share = 0.2
    noise: float = 0.02
    grey: Share = 0.1

    def augmentation(self) -> FaceAugmentation:
        """The same as the data package takes it."""
        return FaceAugmentation(**self.model_dump())


class SoundRecipe(_Strict):
    """Changes to mels; see `lipsmith.data.augment.SoundAugmentation`."""

    gain: float = 0.5
    tilt: float = 0.4
    noise_floor: Share = 0.3
    band_drop: Share = 0.3
    warp: float = Field(default=0.0, ge=0, lt=0.5)

    def augmentation(self) -> SoundAugmentation:
        """The same as the data package takes it."""
        return SoundAugmentation(**self.model_dump())


class OptimiserRecipe(_Strict):
    """AdamW (Adam, with no weight decay): linear warm-up, then a cosine to `final_share` of the rate.

    The cosine ends with the training, or at `decay_steps` when that is given: a stage may stop before its end.
    """

    learning_rate: float = Field(default=5e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    final_share: Share = 0.02
    decay_steps: int | None = Field(default=None, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)


class _Recipe(_Strict):
    name: str
    description: str = ""
    seed: int = 0
    steps: int = Field(gt=0)
    validate_every: int = Field(default=200, gt=0)
    patience: int = Field(
        default=0, ge=0, description="validations without improvement before stopping; 0: never"
    )
    checkpoint_every: int = Field(
        default=0, ge=0, description="steps between checkpoints besides those of validations; 0: none besides"
    )
    precision: Precision = Field(
        default="fp32", description="of the forward passes; auto: see `resolve_precision`; fp16 needs a GPU"
    )
    parts: int = Field(
        default=1,
        ge=1,
        description="parts in which a batch is worked off, their gradients added up; more when memory is short",
    )
    compile: bool = Field(default=False, description="whether torch.compile makes the forward passes faster")
    average_decay: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="of the averaged weights that are validated and kept; 0: the latest",
    )
    data: DataRecipe = DataRecipe()
    faces: FaceRecipe = FaceRecipe()
    sound: SoundRecipe = SoundRecipe()
    optimiser: OptimiserRecipe = OptimiserRecipe()
    validation_frames: int = Field(
        default=75, ge=10, description="frames of each held-out clip that are looked at"
    )


class ExpertModel(_Strict):
    """`form: paper` is the published architecture, `dense` shares lip features over a stretch of frames.

    `frames` is T_v, the frames in a window. `embedding` to `positive` are of the form `dense`, see
    `lipsmith.models.dense_expert.DenseLipSyncExpert`; the paper's embeddings are positive in any case.
    """

    form: Literal["paper", "dense"] = "dense"
    width: float = Field(default=1.0, gt=0)
    embedding: int = Field(default=256, gt=0)
    fusion: Literal["late", "early"] = "late"
    columns: int = Field(default=96, ge=32, le=96, multiple_of=16)
    dropout: Share = 0.1
    positive: bool = False
    frames: int = Field(default=EXPERT_FRAMES, ge=1, le=EXPERT_FRAMES)


class ExpertBatchRecipe(_Strict):
    """Stretches a step: pairs (clips, frames), taken in turn."""

    stretches: list[tuple[int, int]] = [(8, 28)]


class ExpertLoss(_Strict):
    """What an expert learns from: its own sound against other moments of the same clip.

    Attributes:
        name: `contrastive`: all moments of a stretch against one another, so that a batch holds every shift at once.
            `bce`: the paper's cosine and cross-entropy (section 3.3.2): half of the windows keep their sound, the
            others hear another moment of their clip.
        least_negative_shift: Frames from which on another moment is called off sync. 1 is any other moment, as
            published; from 2 on, what viewers tolerate and footage has is not held against the expert.
        temperature: Of the contrast, divides the cosines.
        learn_temperature: Whether training moves the temperature from there.
    """

    name: Literal["contrastive", "bce"] = "contrastive"
    least_negative_shift: int = Field(default=2, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    learn_temperature: bool = False


class ExpertRecipe(_Recipe):
    """Train an expert."""

    task: Literal["expert"]
    model: ExpertModel = ExpertModel()
    batch: ExpertBatchRecipe = ExpertBatchRecipe()
    loss: ExpertLoss = ExpertLoss()

    @model_validator(mode="after")
    def _fits_together(self) -> "ExpertRecipe":
        contrastive = self.loss.name == "contrastive"
        # A contrast needs, for every window of a stretch, another one far enough away.
        windows = self.loss.least_negative_shift + 1 if contrastive else 1
        least = self.model.frames + windows - 1
        for num_clips, num_frames in self.batch.stretches:
            if num_clips < 1 or num_frames < least:
                raise ValueError(
                    f"batch.stretches: [{num_clips}, {num_frames}] is too small; a stretch needs a clip and at least "
                    f"{least} frames with this model.frames and loss.least_negative_shift"
                )
        if not contrastive and self.model.form == "dense" and not self.model.positive:
            raise ValueError(
                "loss.name: bce reads the cosine as a probability, which embeddings that can be negative do not "
                "allow; set model.positive to true, or model.form to paper"
            )
        return self


class GeneratorModel(_Strict):
    """Which generator of `lipsmith.models.generators`, and its dimensions."""

    form: Literal["wav2lip", "wav2lip-warp", "wav2lip-relight", "wav2lip-pair", "lipgan", "speech2vid"] = (
        "wav2lip"
    )
    width: float = Field(default=1.0, gt=0)
    face_size: int = 96


class GeneratorBatchRecipe(_Strict):
    """See `lipsmith.data.samples.generator_batch`."""

    clips: int = Field(default=6, gt=0)
    frames: int = Field(default=9, ge=5)
    negatives: int = Field(default=20, gt=0)
    foreign_share: Share = 0.0
    silence_share: Share = 0.1
    least_reference_distance: int = Field(default=6, ge=1)
    reference_candidates: int = Field(default=6, ge=1)
    reference: ReferenceForm = "frame"


class GeneratorLosses(_Strict):
    """Weights of the generator's terms over the training.

    Attributes:
        reconstruction: L1 (equation 2). `remainder`: what the weights of sync and adversarial leave of 1 (equation 6).
        edges: L1 of neighbouring pixels' differences: what keeps lips and teeth sharp.
        movement: By how much each part of the mouth varies over the stretch, generated against real: a mean error alone
            makes mouths that move too little.
        amplified: Difference to what the initial weights make when a sound moves them farther, see `Amplification`: L1,
            with the weights of the reconstruction, and that of the `edges`.
        paired: Difference to what the initial weights, which see one reference, make of either of two, see
            `lipsmith.training.pairing`: of both faces, their mixture (L1 and `edges` each) and the share of the second.
        features: L1 of the frozen expert's early lip features, generated against real.
        sync: The frozen expert's term, as `sync_form` says.
        adversarial: The visual quality discriminator's term (equation 4).
        still: L1 outside of the mouth region for rows with foreign sound, whose answer is not known: cheeks stay.
        upper_share: Weight of the upper half in the reconstruction, the lower half being 1.
        mouth_gain: Additional weight of the mouth region in the reconstruction.
    """

    reconstruction: Schedule | Literal["remainder"] = 1.0
    edges: Schedule = 0.0
    movement: Schedule = 0.0
    amplified: Schedule = 0.0
    paired: Schedule = 0.0
    features: Schedule = 0.0
    sync: Schedule = 0.0
    adversarial: Schedule = 0.0
    still: Schedule = 1.0
    upper_share: float = Field(default=0.2, ge=0)
    mouth_gain: float = Field(default=1.0, ge=0)


class SyncTerm(_Strict):
    """`contrastive`: own sound against other moments of it. `bce`: equation 3. Crops are roughened before judging.

    `reach` is what the expert may change: the whole `face`, or the brightness of the `mouth` alone.
    With `starts_below` the term waits until a validation's sync loss (equation 3) is below that, as in the published
    training (0.75); its schedule counts from there.
    """

    form: Literal["contrastive", "bce"] = "contrastive"
    reach: Literal["face", "mouth"] = "face"
    temperature: float = Field(default=0.07, gt=0)
    jitter_pixels: int = Field(default=2, ge=0)
    noise: float = Field(default=0.02, ge=0)
    blur: Share = 0.3
    starts_below: float | None = Field(default=None, gt=0)


class Amplification(_Strict):
    """How `losses.amplified` makes larger movements of those of the initial weights: a teacher for them.

    `articulation` extends the code of the sound, as `lipsmith.models.articulation` does. `factor` extends what comes of
    it: what the last layer gives is moved so many times as far from what it gives for silence.
    """

    articulation: float = Field(default=1.0, ge=0)
    factor: float = Field(default=1.5, ge=0)


class CriticRecipe(_Strict):
    """The discriminator that is trained along when `losses.adversarial` is above 0.

    `form: paper` is the published one of visual quality with its cross-entropy, `patch` scores patches beside the
    reference, by hinge; `lipgan` judges sync, one face at a time, by contrast. `features` is the weight of the
    difference of its features, generated against real, in the form `patch`.
    """

    form: Literal["paper", "patch", "lipgan"] = "paper"
    features: float = Field(default=0.0, ge=0)
    width: float = Field(default=0.25, gt=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)


class ExpertFineTuning(_Strict):
    """The expert learns on with the generator, from real and generated faces, instead of being frozen (paper, table 3).

    The paper advises against it: the expert then looks for what gives generated faces away.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)


class GeneratorRecipe(_Recipe):
    """Train a generator: against a frozen expert, or as the other terms say."""

    task: Literal["generator"]
    lead_seconds: Fraction = Fraction(0)
    expert: str | None = None  # no path, which forgets the "./" of a folder named like installed weights
    model: GeneratorModel = GeneratorModel()
    batch: GeneratorBatchRecipe = GeneratorBatchRecipe()
    losses: GeneratorLosses = GeneratorLosses()
    sync_term: SyncTerm = SyncTerm()
    amplification: Amplification = Amplification()
    critic: CriticRecipe = CriticRecipe()
    fine_tune_expert: ExpertFineTuning | None = None
    validation_clips: int = Field(default=14, gt=1, description="held-out clips looked at, spread evenly")
    average_decay: float = Field(default=0.998, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _lead_as_text(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(values.get("lead_seconds"), int | float):
            return {**values, "lead_seconds": str(values["lead_seconds"])}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> "GeneratorRecipe":
        if (self.model.form == "wav2lip-pair") != (self.batch.reference == "pair"):
            raise ValueError(
                f"batch.reference: {self.batch.reference} does not go with model.form {self.model.form}; a "
                "wav2lip-pair sees references of the form pair, and nothing else does"
            )
        return self


Recipe = Annotated[ExpertRecipe | GeneratorRecipe, Field(discriminator="task")]
_ADAPTER: TypeAdapter[ExpertRecipe | GeneratorRecipe] = TypeAdapter(Recipe)


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> ExpertRecipe | GeneratorRecipe:
    """Read a recipe.

    Args:
        path: A YAML file, or the `recipe.json` of a run.
        overrides: Values that take the place of the file's, by field: `{"model.frames": 3}`.

    Raises:
        RecipeError: It names the file and each field that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"The recipe {path} is no text in UTF-8.") from error
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {str(error).splitlines()[0]}.") from error
    for name, value in (overrides or {}).items():
        fields = _replaced(fields, name, value)
    try:
        return _ADAPTER.validate_python(fields)
    except ValidationError as error:
        wrong = "; ".join(f"{_field_name(problem['loc'])}: {problem['msg']}" for problem in error.errors())
        changed = f" with {', '.join(overrides)} changed" if overrides else ""
        raise RecipeError(f"{path}{changed} is not a valid recipe: {wrong}.") from error


def parse_override(text: str) -> tuple[str, Any]:
    """`model.frames=3` → ("model.frames", 3); the value is YAML, as in a recipe."""
    name, equals, value = text.partition("=")
    if not equals or not all(name.strip().split(".")):
        raise RecipeError(
            f"{text!r} changes no field of a recipe: write FIELD=VALUE, such as model.frames=3."
        )
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"The value of {name.strip()} is not YAML ({str(error).splitlines()[0]}): {value}"
        ) from error


def _replaced(fields: Any, name: str, value: Any) -> Any:
    """A copy of a recipe's `fields` in which the one called `name`, with its groups before it, is `value`."""
    first, _, rest = name.partition(".")
    if not isinstance(fields, Mapping):
        raise RecipeError(f"{name!r} cannot be changed: what it is to be a part of is no group of fields.")
    return {**fields, first: _replaced(fields.get(first, {}), rest, value) if rest else value}


def _field_name(place: tuple[int | str, ...]) -> str:
    """A field as a recipe has it: without the task, by which pydantic chooses among the kinds of recipes."""
    named = place[1:] if place and place[0] in ("expert", "generator") else place
    return ".".join(map(str, named)) or "recipe"


def value_at(schedule: Schedule, step: int) -> float:
    """The value of a schedule at `step`."""
    if not isinstance(schedule, list):
        return float(schedule)
    if step <= schedule[0][0]:
        return schedule[0][1]
    for (step0, value0), (step1, value1) in pairwise(schedule):
        if step <= step1:
            return value0 + (value1 - value0) * (step - step0) / max(step1 - step0, 1)
    return schedule[-1][1]


def is_ever_on(schedule: Schedule) -> bool:
    """Whether a schedule is above 0 at any step."""
    return any(value > 0 for _, value in schedule) if isinstance(schedule, list) else schedule > 0
