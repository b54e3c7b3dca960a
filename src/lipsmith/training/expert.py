"""Training the lip-sync expert (paper, section 3.3)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lipsmith.conditioning import lower_half
from lipsmith.data.clips import Clip
from lipsmith.data.samples import ClipSampler, expert_batch, load_split, whole_clip
from lipsmith.errors import WeightsError
from lipsmith.evaluation.sync_score import SyncSummary, score_clip, summarise
from lipsmith.models.dense_expert import DenseLipSyncExpert
from lipsmith.models.expert import LipSyncExpert
from lipsmith.training.losses import contrastive_sync_loss, cosine_bce_loss
from lipsmith.training.recipe import ExpertLoss, ExpertModel, ExpertRecipe
from lipsmith.training.memory import in_parts
from lipsmith.training.run import Report, Run, TrainingReport, make_optimiser, set_learning_rate

Expert = LipSyncExpert | DenseLipSyncExpert


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


def load_expert(path: Path) -> Expert:
    """The expert in `best.safetensors` of a run (or the run's folder), frozen and in evaluation mode."""
    path = path / "best.safetensors" if path.is_dir() else path
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        expert = build_expert(ExpertModel.model_validate_json(metadata["model"]))
        expert.load_state_dict(load_file(path))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is not an expert trained by `lipsmith train` ({error}). Train one with recipes/expert.yaml."
        ) from error
    return expert.eval().requires_grad_(False)


def judge_clips(expert: Expert, clips: Sequence[Clip], max_frames: int) -> SyncSummary:
    """How the expert does on whole clips that it was not trained on; speakers are the groups of the intervals."""
    scores = []
    for clip in clips:
        faces, windows = whole_clip(clip, max_frames, expert.frames)
        scores.append(score_clip(expert, lower_half(faces), windows))
    return summarise(scores, [clip.record.speaker for clip in clips], num_resamples=1)


def _loss(
    expert: Expert, loss: ExpertLoss, lips: Tensor, sound: Tensor, generator: torch.Generator
) -> Tensor:
    if loss.name == "contrastive":
        return contrastive_sync_loss(lips, sound, loss.temperature, loss.ignore_within)
    # The paper's: half of the windows keep their sound, the others get one of another start of the same clip.
    count = lips.shape[1]
    least = loss.ignore_within + 1
    jump = torch.randint(least, count - least + 1, lips.shape[:2], generator=generator)
    other = (torch.arange(count) + jump) % count
    in_sync = torch.rand(lips.shape[:2], generator=generator) < 0.5
    index = torch.where(in_sync, torch.arange(count).expand_as(other), other)
    heard = sound.gather(1, index.unsqueeze(-1).expand_as(sound))
    return cosine_bce_loss(lips, heard, in_sync.float())


def train_expert(
    recipe: ExpertRecipe,
    data: Path,
    output: Path,
    *,
    resume: bool = False,
    on_progress: Report | None = None,
) -> TrainingReport:
    """Train an expert on prepared clips.

    The held-out measure is the share of five-frame windows of the validation speakers that prefer their own sound to
    one at least five frames away (chance 0.5); the best weights by it are `best.safetensors`.
    """
    torch.manual_seed(recipe.seed)
    selection = recipe.data.selection()
    sampler = ClipSampler(load_split(data, selection, "train"), selection.crowds)
    held_out = load_split(data, selection, "validation")
    expert = build_expert(recipe.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make_optimiser(expert, recipe.optimiser)
    run = Run(output, recipe, data=data, resume=resume)
    parts = {"expert": expert, "optimiser": optimiser}
    run.load(parts)
    faces, sound_changes = recipe.faces.augmentation(), recipe.sound.augmentation()
    metadata = {"kind": "expert", "model": recipe.model.model_dump_json(), "recipe": recipe.name}
    stretches = recipe.batch.stretches
    stopped_early = False

    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as ahead:

        def draw(step: int) -> tuple[Tensor, Tensor]:
            num_clips, num_frames = stretches[step % len(stretches)]
            batch = expert_batch(
                sampler,
                np.random.default_rng([recipe.seed, step]),
                num_clips=num_clips,
                num_frames=num_frames,
                faces=faces,
                sound=sound_changes,
                window_frames=recipe.model.frames,
                pool=pool,
            )
            return torch.from_numpy(batch.lower_halves), torch.from_numpy(batch.windows)

        def descend(batch_parts: list[slice]) -> float:
            optimiser.zero_grad(set_to_none=True)
            generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + run.state.step)
            total = 0.0
            for part in batch_parts:
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
                    lips, sound = expert.embed_lips(frames[part]), expert.embed_sound(windows[part])
                loss = _loss(expert, recipe.loss, lips, sound, generator) * (len(lips) / len(frames))
                loss.backward()
                total += float(loss.detach())
            return total

        coming = ahead.submit(draw, run.state.step)
        while run.state.step < recipe.steps:
            step = run.state.step
            frames, windows = coming.result()
            coming = ahead.submit(draw, step + 1)
            expert.train()
            set_learning_rate(optimiser, recipe.optimiser, step, recipe.steps)
            loss = in_parts(run, len(frames), descend)
            nn.utils.clip_grad_norm_(expert.parameters(), recipe.optimiser.clip_norm)
            optimiser.step()
            run.add({"loss": loss})
            run.state.step = step + 1
            if run.state.step % recipe.validate_every == 0 or run.state.step == recipe.steps:
                summary = judge_clips(expert, held_out, recipe.validation_frames)
                measures = {
                    **run.take_means(),
                    "preference": summary.preference_share.value,
                    "offset_within_one": summary.offset_within_one_share.value,
                    "confidence": summary.confidence.value,
                }
                run.judge(measures["preference"], measures, expert, metadata)
                run.log({**measures, "skipped": sum(sampler.skipped.values())})
                run.save(parts)
                if on_progress:
                    on_progress(run.state.step, recipe.steps, measures)
                if recipe.patience and run.state.validations_since_best >= recipe.patience:
                    stopped_early = True
                    break
                continue
            if run.checkpoint_is_due:
                run.save(parts)
            if on_progress:
                on_progress(run.state.step, recipe.steps, {"loss": loss})
        coming.cancel()
    return run.report(stopped_early=stopped_early, skipped=sampler.skipped)
