"""Training the generator against an expert, or by other terms (paper, sections 3.4 and 3.5)."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from lipsmith.data.clips import Clip
from lipsmith.data.samples import ClipSampler, generator_batch, load_split
from lipsmith.data.storage import Location
from lipsmith.errors import DataError, OutputError, RecipeError, WeightsError
from lipsmith.geometry import Image
from lipsmith.models.generators import build_generator
from lipsmith.models.wav2lip import PairedWav2Lip, Wav2Lip, paint_with
from lipsmith.timebase import EXPERT_FRAMES
from lipsmith.training.amplification import AmplifiedGenerator
from lipsmith.training.averaging import AveragedWeights
from lipsmith.training.batch import StepTensors, generate_faces
from lipsmith.training.critics import Critic, Learner, make_critic
from lipsmith.training.descent import Descent
from lipsmith.training.distributed import Processes
from lipsmith.training.expert import Expert, load_expert
from lipsmith.training.fine_tuning import FineTunedExpert, expert_metadata
from lipsmith.training.pairing import Pairing
from lipsmith.training.recipe import GeneratorRecipe, is_ever_on
from lipsmith.training.run import (
    Report,
    Run,
    RunState,
    TrainingReport,
    make_optimiser,
    save_weights,
    set_learning_rate,
)
from lipsmith.training.terms import (
    Term,
    build_terms,
    evaluate_terms,
    terms_in_use,
    total_loss,
    weights_at,
)
from lipsmith.training.validation import Validation, quality, validate_generator
from lipsmith.weights.checkpoint import read_checkpoint
from lipsmith.weights.store import network_file

_NUM_STRIPS = 3


class GeneratorTraining:
    """The networks of one training and what a step does with them; knows no clips and no folder.

    Args:
        recipe: What to train.
        expert: The judge of the sync and feature terms; frozen, unless the recipe fine-tunes it.
        processes: Those that train.
    """

    def __init__(self, recipe: GeneratorRecipe, expert: Expert | None, processes: Processes) -> None:
        self.recipe = recipe
        self.processes = processes
        self.device = device = processes.device
        self.expert = expert
        self.descent = Descent(recipe.precision, device)
        generator = build_generator(recipe.model.form, recipe.model.width, recipe.model.face_size)
        self.generator = generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedWeights(self.generator, recipe.average_decay)
        processes.share_norms(self.generator)
        self._generate = torch.compile(self.generator) if recipe.compile else self.generator
        self.optimiser = make_optimiser(self.generator, recipe.optimiser)
        self.critic: Critic | None = None
        if is_ever_on(recipe.losses.adversarial):
            self.critic = make_critic(recipe, window_frames(recipe, expert))
            processes.share_norms(self.critic.model.to(device))
        self.pupil: FineTunedExpert | None = None
        if recipe.fine_tune_expert is not None:
            if expert is None:
                raise RecipeError(f"The recipe {recipe.name!r} fine-tunes an expert: name one with --expert.")
            self.pupil = FineTunedExpert(expert, recipe.fine_tune_expert, recipe.sync_term)
        self.amplified: AmplifiedGenerator | None = None
        if is_ever_on(recipe.losses.amplified):
            if not isinstance(self.generator, Wav2Lip):
                raise RecipeError(
                    f"losses.amplified is for generators of the forms wav2lip…, not {recipe.model.form}."
                )
            self.amplified = AmplifiedGenerator(self.generator, recipe.amplification)
        self.pairing: Pairing | None = None
        if is_ever_on(recipe.losses.paired):
            if not isinstance(self.generator, PairedWav2Lip):
                raise RecipeError(
                    f"losses.paired is for generators of the form wav2lip-pair, not {recipe.model.form}."
                )
            self.pairing = Pairing(self.generator)
        self.terms: tuple[Term, ...] = build_terms(recipe, expert, self.critic, self.amplified, self.pairing)

    def begin_with(self, path: Path | str) -> None:
        """Take over the weights of an earlier stage: a run's folder, installed weights, or a checkpoint file."""
        path = network_file(path, "generator")
        tensors = read_checkpoint(path)
        try:
            if isinstance(self.generator, Wav2Lip):
                paint_with(self.generator, tensors)
            else:
                self.generator.load_state_dict(tensors)
            if self.pairing is not None:
                self.pairing.begin_with(tensors)
        except RuntimeError as error:
            raise WeightsError(
                f"{path} does not hold a generator of the recipe's dimensions ({str(error).splitlines()[0]})."
            ) from error
        self.average = AveragedWeights(self.generator, self.recipe.average_decay)
        if self.amplified is not None:
            self.amplified.load_state_dict(self.generator.state_dict())

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        parts: dict[str, Any] = {
            "generator": self.generator,
            "average": self.average.model,
            "optimiser": self.optimiser,
        }
        if self.critic is not None:
            parts["critic"] = self.critic
        if self.pupil is not None:
            parts["expert"] = self.pupil
        if self.amplified is not None:
            parts["amplified"] = self.amplified
        if self.pairing is not None:
            parts["pairing"] = self.pairing
        if self.descent.scaler.is_enabled():
            parts["scaler"] = self.descent.scaler
        return parts

    def step(self, run: Run, batch: StepTensors) -> dict[str, float]:
        """Learn from one batch, of which `batch` holds this process's rows; the terms' values, and the critic's loss.

        A batch that does not fit into memory is worked off in parts from then on.
        """
        step, recipe = run.state.step, self.recipe
        own, foreign, every = self.processes.add([batch.whole[kind] for kind in ("own", "foreign", "all")])
        batch = replace(batch, whole={"own": int(own), "foreign": int(foreign), "all": int(every)})
        weights = weights_at(recipe.losses, step, _sync_since(run, recipe))
        self.generator.train()
        set_learning_rate(self.optimiser, recipe.optimiser, step, recipe.steps)

        def compute(part: slice) -> tuple[Tensor, tuple[dict[str, float], Tensor]]:
            rows = batch.rows(part).to(self.device)
            generated = generate_faces(self._generate, rows.targets, rows.references, rows.frame_windows)
            losses = evaluate_terms(self.terms, weights, rows, generated)
            found = {name: float(loss.value.detach()) for name, loss in losses.items()}
            return total_loss(losses), (found, generated.detach())

        parts = self.descent.gradients(run, self.optimiser, batch.whole["all"], compute)
        self.descent.take_clipped(self.optimiser, self.generator.parameters(), recipe.optimiser.clip_norm)
        self.average.update(self.generator, step)
        generated = parts[0][1] if len(parts) == 1 else torch.cat([faces for _, faces in parts])
        names = [term.name for term in terms_in_use(self.terms, weights, batch.whole)]
        values = {name: sum(found.get(name, 0.0) for found, _ in parts) for name in names}
        if "adversarial" in values:
            assert self.critic is not None
            values["critic"] = self._teach(self.critic, run, batch, generated)
        if self.pupil is not None:
            values["expert"] = self._teach(self.pupil, run, batch, generated)
        self.descent.end_step()
        return dict(zip(values, self.processes.add(list(values.values())), strict=True))

    def validate(self, clips: Sequence[Clip]) -> Validation:
        """How the averaged generator does on held-out clips."""
        return validate_generator(self.average.model, self.expert, self.recipe, clips, num_strips=_NUM_STRIPS)

    def _teach(self, learner: Learner, run: Run, batch: StepTensors, generated: Tensor) -> float:
        """One step of a critic or of a fine-tuned expert; what this process adds to its loss."""

        def compute(part: slice) -> tuple[Tensor, float]:
            loss = learner.loss(batch.rows(part).to(self.device), generated[part])
            return loss, float(loss.detach())

        losses = self.descent.gradients(run, learner.optimiser, batch.whole["all"], compute)
        self.descent.take(learner.optimiser)
        return sum(losses)


def window_frames(recipe: GeneratorRecipe, expert: Expert | None) -> int:
    """T_v of the windows whose sounds a batch holds: the expert's; without one a frame where LipGAN's critic looks."""
    if expert is not None:
        return expert.frames
    return 1 if recipe.critic.form == "lipgan" else EXPERT_FRAMES


def _sync_since(run: Run, recipe: GeneratorRecipe) -> int | None:
    """The step from which the sync term counts, None while it waits for the generator to be good enough."""
    return 0 if recipe.sync_term.starts_below is None else run.state.sync_since


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """At most `count` clips, evenly from the whole list: as many people as possible."""
    return [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, count).round().astype(int)).tolist()]


def _check_size(clips: Sequence[Clip], face_size: int) -> None:
    for clip in clips:
        if clip.record.face_size != face_size:
            raise DataError(
                f"The prepared clip {clip.record.id} has faces of {clip.record.face_size} pixels, the recipe paints "
                f"{face_size}: prepare with --face-size {face_size}, or change model.face_size."
            )


def train_generator(
    recipe: GeneratorRecipe,
    data: Location,
    output: Path,
    *,
    expert: Path | str | None = None,
    initial: Path | str | None = None,
    resume: bool = False,
    on_progress: Report | None = None,
) -> TrainingReport:
    """Train a generator on prepared clips, from `initial` weights (a run's folder or file) when given.

    The averaged weights with the best held-out value (`lipsmith.training.validation.quality`) are
    `best.safetensors`; the latest ones are `last.safetensors`. Every validation leaves film strips under `samples/`.
    """
    torch.manual_seed(recipe.seed)
    processes = Processes()
    with processes.together():
        own_rows = processes.rows(recipe.batch.clips)
        expert_path = expert or recipe.expert
        uses_expert = is_ever_on(recipe.losses.sync) or is_ever_on(recipe.losses.features)
        if uses_expert and expert_path is None:
            raise RecipeError(
                f"The recipe {recipe.name!r} has a sync or feature term: name a trained expert with --expert."
            )
        judge = load_expert(expert_path).to(processes.device) if expert_path is not None else None
        selection = recipe.data.selection()
        sampler = ClipSampler(load_split(data, selection, "train"), selection.crowds)
        held_out: list[Clip] = []
        if processes.is_main:
            held_out = _spread(load_split(data, selection, "validation"), recipe.validation_clips)
        _check_size(held_out, recipe.model.face_size)
        training = GeneratorTraining(recipe, judge, processes)
        if initial is not None:
            training.begin_with(initial)
        elif (training.amplified or training.pairing) and not resume:
            raise RecipeError(
                f"The recipe {recipe.name!r} learns from earlier weights: name them with --initial."
            )
    run = Run(output, recipe, processes, data=data, resume=resume)
    if not run.load(training.parts):
        processes.begin_randomness(recipe.seed)
    pupil_metadata = {} if training.pupil is None or expert_path is None else expert_metadata(expert_path)
    metadata = {
        "kind": "generator",
        "architecture": recipe.model.form,
        "width": str(recipe.model.width),
        "face_size": str(recipe.model.face_size),
        "lead_seconds": str(recipe.lead_seconds),
        "reference": recipe.batch.reference,
        "recipe": recipe.name,
    }

    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as ahead:

        def draw(step: int) -> StepTensors:
            settings = recipe.batch
            weights = weights_at(recipe.losses, step, _sync_since(run, recipe))
            batch = generator_batch(
                sampler,
                np.random.default_rng([recipe.seed, step]),
                num_clips=settings.clips,
                num_frames=settings.frames,
                lead_seconds=recipe.lead_seconds,
                num_negatives=settings.negatives,
                # Of foreign words no picture is known: only these terms say what they are to look like.
                foreign_share=settings.foreign_share
                if any(weights[name] > 0 for name in ("sync", "amplified", "paired"))
                else 0.0,
                silence_share=settings.silence_share,
                least_reference_distance=settings.least_reference_distance,
                num_reference_candidates=settings.reference_candidates,
                reference=settings.reference,
                faces=recipe.faces.augmentation(),
                sound=recipe.sound.augmentation(),
                window_frames=window_frames(recipe, judge),
                rows=own_rows,
                pool=pool,
            )
            return StepTensors.of(batch)

        coming = ahead.submit(draw, run.state.step)
        while run.state.step < recipe.steps and not run.is_out_of_patience:
            batch = coming.result()
            coming = ahead.submit(draw, run.state.step + 1)
            values = training.step(run, batch)
            run.add(values)
            run.state.step += 1
            if run.state.step % recipe.validate_every == 0 or run.state.step == recipe.steps:
                skipped = int(processes.add([sum(sampler.skipped.values())])[0])
                run.state, values = processes.from_main(
                    lambda: _validate(run, training, held_out, metadata, pupil_metadata, skipped)  # noqa: B023
                )
                run.save(training.parts)
            elif run.checkpoint_is_due:
                run.save(training.parts)
            if on_progress and processes.is_main:
                on_progress(run.state.step, recipe.steps, _with_parts(run, values))
        coming.cancel()
    return run.report(skipped=sampler.skipped)


def _validate(
    run: Run,
    training: GeneratorTraining,
    clips: Sequence[Clip],
    metadata: dict[str, str],
    pupil_metadata: dict[str, str],
    skipped: int,
) -> tuple[RunState, dict[str, float]]:
    """Measure, keep the weights if they are the best, and write the log, the latest weights and film strips.

    Where the run is now, and the measures.
    """
    measures = run.take_means()
    found = training.validate(clips)
    measures |= found.measures
    threshold = training.recipe.sync_term.starts_below
    if (
        threshold is not None
        and run.state.sync_since is None
        and measures.get("sync_loss", math.inf) < threshold
    ):
        run.state.sync_since = run.state.step
        run.note(f"The held-out sync loss is {measures['sync_loss']:.3f}: the sync term is let in.")
    run.judge(quality(measures), measures, training.average.model, metadata)
    save_weights(training.average.model, run.folder / "last.safetensors", metadata)
    if training.pupil is not None:
        save_weights(training.pupil.model, run.folder / "expert.safetensors", pupil_metadata)
    if found.samples is not None:
        _write_picture(run.folder / "samples" / f"step_{run.state.step:07d}.png", found.samples)
    run.log({**measures, "skipped": skipped})
    return run.state, measures


def _write_picture(path: Path, picture: Image) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    except OSError as error:
        raise OutputError(f"The picture {path} cannot be written: {error.strerror}.") from error


def _with_parts(run: Run, values: dict[str, float]) -> dict[str, float]:
    """`values`, and in how many parts a batch is worked off, if memory was short."""
    return values if run.state.parts == 1 else {**values, "batch_parts": float(run.state.parts)}
