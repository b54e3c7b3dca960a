"""Training the lip-sync expert (paper, section 3.3)."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lipsmith.data.clips import Clip
from lipsmith.data.samples import ClipSampler, expert_batch, load_split
from lipsmith.errors import OutputError, WeightsError
from lipsmith.evaluation.sync_accuracy import SyncAccuracy, measure_accuracy, spread_clips
from lipsmith.evaluation.sync_curves import draw_accuracy
from lipsmith.models.dense_expert import DenseLipSyncExpert
from lipsmith.models.expert import LipSyncExpert
from lipsmith.training.averaging import AveragedWeights
from lipsmith.training.descent import Descent
from lipsmith.training.distributed import Processes
from lipsmith.training.losses import contrastive_sync_loss, cosine_bce_loss
from lipsmith.training.recipe import ExpertLoss, ExpertModel, ExpertRecipe
from lipsmith.training.run import Report, Run, RunState, TrainingReport, make_optimiser, set_learning_rate
from lipsmith.weights.store import network_file

Expert = LipSyncExpert | DenseLipSyncExpert
_NUM_RESAMPLES = 500


def build_expert(model: ExpertModel) -> Expert:
    """An untrained expert of the form that the recipe asks for."""
    if model.form == "paper":
        return LipSyncExpert(model.width, model.frames)
    return DenseLipSyncExpert(
        model.width,
        model.embedding,
        model.fusion,
        model.columns,
        model.dropout,
        frames=model.frames,
        positive=model.positive,
    )


def load_expert(named: str | Path) -> Expert:
    """An expert, frozen and in evaluation mode.

    Args:
        named: The name of installed weights, a weights folder, a run folder of `lipsmith train`, the weights in one, or
            a checkpoint of the published layout.

    Raises:
        WeightsError: There is none, or another network.
    """
    path = network_file(named, "expert")
    try:
        with safe_open(path, "pt") as file:
            model = (file.metadata() or {}).get("model")
    except (OSError, SafetensorError):
        model = None  # another format, or nothing at all, which is said below
    expert = _published_expert(path) if model is None else _trained_expert(path, model)
    return expert.eval().requires_grad_(False)


def _trained_expert(path: Path, model: str) -> Expert:
    try:
        expert = build_expert(ExpertModel.model_validate_json(model))
        expert.load_state_dict(load_file(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is not an expert trained by `lipsmith train` ({error}). Train one with recipes/expert.yaml."
        ) from error
    return expert


def _published_expert(path: Path) -> LipSyncExpert:
    from lipsmith.weights.checkpoint import load_network

    network, _ = load_network(path, "expert")
    assert isinstance(network, LipSyncExpert)
    return network


class SyncCriterion(nn.Module):
    """The loss that a recipe asks for, with the temperature as a parameter where it is learned."""

    LEAST_TEMPERATURE = 0.01  # below it one hard moment outweighs all others

    def __init__(self, loss: ExpertLoss) -> None:
        super().__init__()
        self.loss = loss
        if loss.name == "contrastive" and loss.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(loss.temperature)))

    @property
    def temperature(self) -> Tensor | float:
        """What the cosines of a contrast are divided by."""
        if not hasattr(self, "log_temperature"):
            return self.loss.temperature
        return self.log_temperature.exp().clamp_min(self.LEAST_TEMPERATURE)

    @property
    def off_sync_share(self) -> float:
        """The share of windows that are to hear another moment; a contrast makes its own pairs."""
        return 0.5 if self.loss.name == "bce" else 0.0

    def forward(self, lips: Tensor, sound: Tensor, in_sync: Tensor) -> Tensor:
        """Embeddings (B, N, D) of lips and of the sounds heard with them, bool (B, N) → scalar."""
        if self.loss.name == "bce":
            return cosine_bce_loss(lips, sound, in_sync.float())
        return contrastive_sync_loss(lips, sound, self.temperature, self.loss.least_negative_shift - 1)


def _write_accuracy(report: SyncAccuracy, folder: Path, step: int, title: str) -> None:
    """Numbers and picture of one validation."""
    try:
        folder.mkdir(exist_ok=True)
        (folder / f"step_{step:07d}.json").write_text(report.to_json())
        draw_accuracy(report, folder / f"step_{step:07d}.png", title=f"{title}, step {step}")
    except OSError as error:
        raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror}.") from error


def train_expert(
    recipe: ExpertRecipe,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    on_progress: Report | None = None,
) -> TrainingReport:
    """Train an expert on prepared clips.

    Each validation measures what `lipsmith.evaluation.sync_accuracy` defines on the validation speakers, with the
    threshold found on as many training clips: a line of the log, and all numbers and a picture under `accuracy/`. The
    best weights, `best.safetensors`, are those with the highest share of windows that prefer their own sound to one at
    least five frames away (chance 0.5); with clips too short for that, those with the highest off-sync accuracy.
    """
    torch.manual_seed(recipe.seed)
    processes = Processes()
    device, stretches = processes.device, recipe.batch.stretches
    with processes.together():
        own_rows = [processes.rows(num_clips) for num_clips, _ in stretches]
        descent = Descent(recipe.precision, device)
        selection = recipe.data.selection()
        sampler = ClipSampler(load_split(data, selection, "train"), selection.crowds)
        held_out: Sequence[Clip] = []
        if processes.is_main:
            held_out = load_split(data, selection, "validation")
        known = spread_clips(sampler.clips, len(held_out))
    expert = build_expert(recipe.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedWeights(expert, recipe.average_decay)
    processes.share_norms(expert)
    embed_lips, embed_sound = expert.embed_lips, expert.embed_sound
    if recipe.compile:
        embed_lips, embed_sound = torch.compile(embed_lips), torch.compile(embed_sound)
    criterion = SyncCriterion(recipe.loss).to(device)
    optimiser = make_optimiser(nn.ModuleList([expert, criterion]), recipe.optimiser)
    parts: dict[str, Any] = {"expert": expert, "optimiser": optimiser}
    if recipe.average_decay > 0:
        parts["average"] = average.model
    if criterion.state_dict():
        parts["criterion"] = criterion
    if descent.scaler.is_enabled():
        parts["scaler"] = descent.scaler
    run = Run(output, recipe, processes, data=data, resume=resume)
    if not run.load(parts):
        processes.begin_randomness(recipe.seed)
    faces, sound_changes = recipe.faces.augmentation(), recipe.sound.augmentation()
    metadata = {"kind": "expert", "model": recipe.model.model_dump_json(), "recipe": recipe.name}

    def validate(skipped: int) -> tuple[RunState, dict[str, float]]:
        report = measure_accuracy(
            average.model,
            held_out,
            known,
            threshold_from="training clips",
            max_frames=recipe.validation_frames,
            num_resamples=_NUM_RESAMPLES,
        )
        measures = {**run.take_means(), **report.measures()}
        if "criterion" in parts:
            measures["temperature"] = float(torch.as_tensor(criterion.temperature).detach())
        run.judge(measures.get("preference", measures["accuracy"]), measures, average.model, metadata)
        _write_accuracy(report, run.folder / "accuracy", run.state.step, recipe.name)
        run.log({**measures, "skipped": skipped})
        return run.state, measures

    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as ahead:

        def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
            num_clips, num_frames = stretches[step % len(stretches)]
            batch = expert_batch(
                sampler,
                np.random.default_rng([recipe.seed, step]),
                num_clips=num_clips,
                num_frames=num_frames,
                faces=faces,
                sound=sound_changes,
                window_frames=recipe.model.frames,
                off_sync_share=criterion.off_sync_share,
                least_shift=recipe.loss.least_negative_shift,
                rows=own_rows[step % len(stretches)],
                pool=pool,
            )
            return (
                torch.from_numpy(batch.lower_halves),
                torch.from_numpy(batch.windows),
                torch.from_numpy(batch.in_sync),
            )

        def compute(part: slice) -> tuple[Tensor, float]:
            lips, sound = embed_lips(frames[part].to(device)), embed_sound(windows[part].to(device))
            loss = criterion(lips, sound, in_sync[part].to(device)) * (len(lips) / num_clips)
            return loss, float(loss.detach())

        coming = ahead.submit(draw, run.state.step)
        while run.state.step < recipe.steps and not run.is_out_of_patience:
            step = run.state.step
            num_clips, _ = stretches[step % len(stretches)]
            frames, windows, in_sync = coming.result()
            coming = ahead.submit(draw, step + 1)
            expert.train()
            set_learning_rate(optimiser, recipe.optimiser, step, recipe.steps)
            losses = descent.gradients(run, optimiser, num_clips, compute)
            descent.take_clipped(optimiser, expert.parameters(), recipe.optimiser.clip_norm)
            descent.end_step()
            average.update(expert, step)
            measures = {"loss": processes.add([sum(losses)])[0]}
            run.add(measures)
            run.state.step = step + 1
            if run.state.step % recipe.validate_every == 0 or run.state.step == recipe.steps:
                skipped = int(processes.add([sum(sampler.skipped.values())])[0])
                run.state, measures = processes.from_main(lambda: validate(skipped))  # noqa: B023
                run.save(parts)
            elif run.checkpoint_is_due:
                run.save(parts)
            if on_progress and processes.is_main:
                on_progress(run.state.step, recipe.steps, measures)
        coming.cancel()
    return run.report(skipped=sampler.skipped)
