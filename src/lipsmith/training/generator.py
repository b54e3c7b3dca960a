"""Training the generator against a frozen expert (paper, sections 3.4 and 3.5)."""

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lipsmith.conditioning import lower_half, mask_lower_half
from lipsmith.data.clips import Clip
from lipsmith.data.samples import ClipSampler, expert_windows, generator_batch, load_split
from lipsmith.errors import RecipeError, WeightsError
from lipsmith.evaluation.sync_score import score_clip, summarise
from lipsmith.models.dense_expert import DenseLipSyncExpert
from lipsmith.models.quality import PatchDiscriminator, VisualQualityDiscriminator
from lipsmith.models.wav2lip import Wav2Lip
from lipsmith.reference import clip_references, placed_references
from lipsmith.timebase import EXPERT_FRAMES
from lipsmith.training.expert import Expert, load_expert
from lipsmith.training.losses import (
    adversarial_loss,
    discriminator_fake_loss,
    discriminator_real_loss,
    expert_sync_loss,
    hinge_discriminator_loss,
)
from lipsmith.training.recipe import CriticRecipe, GeneratorRecipe, SyncTerm, is_ever_on, value_at
from lipsmith.training.run import (
    Report,
    Run,
    TrainingReport,
    make_optimiser,
    save_weights,
    set_learning_rate,
)


@dataclass(frozen=True)
class StepTensors:
    """A `lipsmith.data.samples.GeneratorBatch` as tensors."""

    targets: Tensor
    references: Tensor
    frame_windows: Tensor
    sync_windows: Tensor
    foreign: Tensor


def generate_faces(generator: nn.Module, targets: Tensor, references: Tensor, windows: Tensor) -> Tensor:
    """Run the generator on B stretches of T frames: (B, T, 3, S, S) ×2 and (B, T, 1, 80, 16) → (B, T, 3, S, S)."""
    faces = torch.cat([mask_lower_half(targets), references], dim=2).flatten(0, 1)
    faces = faces.contiguous(memory_format=torch.channels_last)
    return generator(windows.flatten(0, 1), faces).float().unflatten(0, targets.shape[:2])


def _ellipse(size: int, row: float, half_rows: float, half_columns: float) -> Tensor:
    """A soft ellipse on the middle column, (1, 1, S, S), 1 inside; positions are shares of the face crop's side."""
    rows = (torch.arange(size) + 0.5).view(-1, 1) / size
    columns = (torch.arange(size) + 0.5).view(1, -1) / size
    distance = (((rows - row) / half_rows) ** 2 + ((columns - 0.5) / half_columns) ** 2).sqrt()
    return torch.sigmoid((1 - distance) * 12).view(1, 1, size, size)


def mouth_mask(size: int) -> Tensor:
    """Where the mouth is in a face crop (centre at 70 % of the height), (1, 1, S, S), soft, 0 to 1."""
    return _ellipse(size, 0.71, 0.17, 0.27)


def moving_mask(size: int) -> Tensor:
    """Where speech moves a face: mouth, chin and the jaw's line, (1, 1, S, S), soft, 0 to 1."""
    return _ellipse(size, 0.77, 0.28, 0.36)


def roughened_halves(faces: Tensor, term: SyncTerm, generator: torch.Generator) -> Tensor:
    """Lower halves of (B, T, 3, S, S), shifted, blurred and noised alike over a stretch.

    An expert that sees every picture a little differently each time cannot be bribed with specks.
    """
    batch, _, _, size, _ = faces.shape
    reach = term.jitter_pixels
    shifts = torch.randint(-reach, reach + 1, (batch, 2), generator=generator).tolist()
    padded = F.pad(faces.flatten(1, 2), (reach, reach, 0, reach), mode="replicate")
    rows = []
    for stretch, (down, right) in zip(padded, shifts, strict=True):
        top = size // 2 + down
        rows.append(stretch[:, top : top + size // 2, reach + right : reach + right + size])
    halves = torch.stack(rows).unflatten(1, (faces.shape[1], 3))
    if term.blur > 0 and float(torch.rand((), generator=generator)) < term.blur:
        sigma = 0.4 + 0.8 * float(torch.rand((), generator=generator))
        x = torch.arange(-3.0, 4.0)
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
        flat = halves.flatten(0, 2).unsqueeze(1)
        flat = F.conv2d(F.pad(flat, (3, 3, 0, 0), mode="replicate"), kernel)
        flat = F.conv2d(F.pad(flat, (0, 0, 3, 3), mode="replicate"), kernel.transpose(2, 3))
        halves = flat.squeeze(1).view_as(halves)
    if term.noise > 0:
        strength = term.noise * torch.rand((batch, 1, 1, 1, 1), generator=generator)
        halves = halves + strength * torch.randn(halves.shape, generator=generator)
    return halves


def sync_loss(expert: Expert, term: SyncTerm, halves: Tensor, windows: Tensor) -> Tensor:
    """The frozen expert's term for generated lower halves (B, T, 3, S/2, S) and windows (B, M, 1, 80, 16).

    The first T − T_v + 1 windows belong to the stretch. `contrastive`: the lips of each window are to prefer their own
    sound to the other moments of the same sound; neighbours within one frame are left out.
    """
    lips = expert.embed_lips(halves)
    with torch.no_grad():
        sound = expert.embed_sound(windows)
    count = lips.shape[1]
    if term.form == "bce":
        return expert_sync_loss(sound[:, :count], lips)
    similarity = torch.einsum("bid,bjd->bij", lips, sound) / term.temperature
    own = torch.arange(count)
    near = (own[:, None] - torch.arange(windows.shape[1])[None, :]).abs() == 1
    near[:, count:] = False
    similarity = similarity.masked_fill(near, float("-inf"))
    return F.cross_entropy(similarity.flatten(0, 1), own.repeat(lips.shape[0]))


def _edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    return faces[..., 1:, :] - faces[..., :-1, :], faces[..., :, 1:] - faces[..., :, :-1]


class _Critic(Protocol):
    """A discriminator and its optimiser: one part of a run."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: dict[str, dict]) -> None: ...

    def term(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """What the generator is to make small."""
        ...

    def learn(self, batch: StepTensors, generated: Tensor) -> float:
        """One step of the discriminator; its loss."""
        ...


class _CriticBase:
    def __init__(self, model: nn.Module, recipe: CriticRecipe) -> None:
        self.model = model
        self.optimiser: Optimizer = Adam(model.parameters(), lr=recipe.learning_rate, betas=recipe.betas)

    def state_dict(self) -> dict[str, object]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _step(self, loss: Tensor) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


class _PaperCritic(_CriticBase):
    """The visual quality discriminator and its cross-entropy (paper, 3.5)."""

    def __init__(self, recipe: GeneratorRecipe) -> None:
        super().__init__(
            VisualQualityDiscriminator(recipe.critic.width, recipe.model.face_size), recipe.critic
        )

    def term(self, batch: StepTensors, generated: Tensor) -> Tensor:
        return adversarial_loss(self._score(generated))

    def learn(self, batch: StepTensors, generated: Tensor) -> float:
        real = discriminator_real_loss(self._score(batch.targets))
        return self._step((real + discriminator_fake_loss(self._score(generated.detach()))) / 2)

    def _score(self, faces: Tensor) -> Tensor:
        return self.model(faces.transpose(1, 2))  # (B, T, 3, S, S) → (B, 3, T, S, S)


class _PatchCritic(_CriticBase):
    """Patches of the moving part of the face, by hinge; and its features, generated against real."""

    def __init__(self, recipe: GeneratorRecipe) -> None:
        super().__init__(PatchDiscriminator(recipe.critic.width), recipe.critic)
        self.features = recipe.critic.features
        size = recipe.model.face_size
        self.importance = F.interpolate(
            moving_mask(size)[..., size // 2 :, :], (size // 8, size // 4), mode="area"
        )

    def term(self, batch: StepTensors, generated: Tensor) -> Tensor:
        scores, features = self._score(generated, batch.references)
        loss = -(scores.float() * self.importance).mean() / self.importance.mean()
        own = (~batch.foreign).repeat_interleave(generated.shape[1])
        if self.features > 0 and own.any():
            with torch.no_grad():
                _, wanted = self._score(batch.targets, batch.references)
            differences = [
                F.l1_loss(a[own].float(), b[own].float()) for a, b in zip(features, wanted, strict=True)
            ]
            loss = loss + self.features * torch.stack(differences).mean()
        return loss

    def learn(self, batch: StepTensors, generated: Tensor) -> float:
        real, _ = self._score(batch.targets, batch.references)
        made, _ = self._score(generated.detach(), batch.references)
        return self._step(hinge_discriminator_loss(real, made, self.importance))

    def _score(self, faces: Tensor, references: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.model(faces.flatten(0, 1), references.flatten(0, 1))


def _make_critic(recipe: GeneratorRecipe) -> _Critic:
    return _PaperCritic(recipe) if recipe.critic.form == "paper" else _PatchCritic(recipe)


class _Average:
    """The running average of the generator's weights: what is validated and shipped."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
                own.lerp_(new, 1 - decay)
            for kept, latest in zip(self.model.buffers(), model.buffers(), strict=True):
                kept.copy_(kept.lerp(latest, 1 - decay) if kept.is_floating_point() else latest)


def _losses(
    recipe: GeneratorRecipe,
    step: int,
    batch: StepTensors,
    generated: Tensor,
    expert: Expert | None,
    critic: _Critic | None,
    random: torch.Generator,
) -> dict[str, tuple[float, Tensor]]:
    """Terms by name: (weight at this step, value)."""
    weights, size = recipe.losses, recipe.model.face_size
    terms: dict[str, tuple[float, Tensor]] = {}
    own = ~batch.foreign
    importance = torch.full((1, 1, size, size), weights.upper_share)
    importance[..., size // 2 :, :] = 1.0
    importance = importance + weights.mouth_gain * mouth_mask(size)

    if own.any():
        made, real = generated[own], batch.targets[own]
        terms["reconstruction"] = (
            value_at(weights.reconstruction, step),
            ((made - real).abs() * importance).mean() / importance.mean(),
        )
        if (weight := value_at(weights.edges, step)) > 0:
            differences = [
                (a - b).abs().mean()
                for a, b in zip(_edges(lower_half(made)), _edges(lower_half(real)), strict=True)
            ]
            terms["edges"] = (weight, torch.stack(differences).mean())
        if (weight := value_at(weights.features, step)) > 0:
            if not isinstance(expert, DenseLipSyncExpert):
                raise RecipeError("losses.features needs an expert of the dense form with late fusion.")
            with torch.no_grad():
                wanted = expert.lip_features(lower_half(real).flatten(0, 1))
            got = expert.lip_features(lower_half(made).flatten(0, 1))
            terms["features"] = (
                weight,
                torch.stack(
                    [F.l1_loss(a.float(), b.float()) for a, b in zip(got, wanted, strict=True)]
                ).mean(),
            )
    if batch.foreign.any() and (weight := value_at(weights.still, step)) > 0:
        outside = 1 - moving_mask(size)
        difference = (generated[batch.foreign] - batch.targets[batch.foreign]).abs() * outside
        terms["still"] = (weight, difference.mean() / outside.mean())
    if (weight := value_at(weights.sync, step)) > 0:
        assert expert is not None
        halves = roughened_halves(generated, recipe.sync_term, random)
        terms["sync"] = (weight, sync_loss(expert, recipe.sync_term, halves, batch.sync_windows))
    if critic is not None and (weight := value_at(weights.adversarial, step)) > 0:
        terms["adversarial"] = (weight, critic.term(batch, generated))
    return terms


def validate_generator(
    generator: nn.Module, expert: Expert | None, recipe: GeneratorRecipe, clips: Sequence[Clip]
) -> dict[str, float]:
    """Measures on people that were not trained on.

    Own speech with a reference from elsewhere in the clip: `l1_lower`, `psnr_lower`, `mouth_sharpness` (mean edge
    strength of the mouth region, generated over real). Foreign speech as at inference (the reference is the frame
    itself), when there is an expert: `preference`, `offset_within_one`, by that expert.
    """
    size, half = recipe.model.face_size, recipe.model.face_size // 2
    mouth = (
        slice(None),
        slice(None),
        slice(int(0.55 * size), int(0.86 * size)),
        slice(size // 4, 3 * size // 4),
    )
    errors, squares, made_edges, real_edges, scores = [], [], [], [], []
    was_training = generator.training
    generator.eval()
    with torch.inference_mode():
        for index, clip in enumerate(clips):
            count = min(len(clip), recipe.validation_frames)
            pictures, form = clip.faces(0, count), recipe.batch.reference
            faces = _network_faces(pictures)
            elsewhere = placed_references(form, np.roll(pictures, count // 2, axis=0), pictures)
            windows = torch.from_numpy(clip.windows(recipe.lead_seconds)[:count])
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
                made = generate_faces(generator, faces[None], _network_faces(elsewhere)[None], windows[None])[
                    0
                ]
            difference = made[..., half:, :] - faces[..., half:, :]
            errors.append(float(difference.abs().mean()))
            squares.append(float(difference.square().mean()))
            made_edges.append(sum(float(e.abs().mean()) for e in _edges(made[mouth])))
            real_edges.append(sum(float(e.abs().mean()) for e in _edges(faces[mouth])))
            if expert is None:
                continue
            other = clips[(index + 1) % len(clips)]
            count = min(count, len(other))
            foreign = torch.from_numpy(other.windows(recipe.lead_seconds)[:count])
            shown = _network_faces(clip_references(form, pictures[:count]))
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
                dubbed = generate_faces(generator, faces[None, :count], shown[None], foreign[None])[0]
            heard = expert_windows(other, 0, count, expert.frames)
            scores.append(score_clip(expert, lower_half(dubbed).numpy(), heard))
    generator.train(was_training)
    measures = {
        "l1_lower": float(np.mean(errors)),
        "psnr_lower": float(np.mean(-10 * np.log10(squares))),
        "mouth_sharpness": float(np.sum(made_edges) / np.sum(real_edges)),
    }
    if scores:
        summary = summarise(scores, num_resamples=1)
        measures["preference"] = summary.preference_share.value
        measures["offset_within_one"] = summary.offset_within_one_share.value
    return measures


def _network_faces(pictures: NDArray[np.uint8]) -> Tensor:
    """(T, S, S, 3) uint8 → (T, 3, S, S), 0–1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """At most `count` clips, evenly from the whole list: as many people as possible."""
    return [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, count).round().astype(int))]


def _load_initial(generator: nn.Module, path: Path) -> None:
    path = path / "best.safetensors" if path.is_dir() else path
    try:
        generator.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not hold a generator of the recipe's dimensions ({str(error).splitlines()[0]})."
        ) from error


def train_generator(
    recipe: GeneratorRecipe,
    data: Path,
    output: Path,
    *,
    expert: Path | None = None,
    initial: Path | None = None,
    resume: bool = False,
    on_progress: Report | None = None,
) -> TrainingReport:
    """Train a generator on prepared clips, from `initial` weights (a run's folder or file) when given.

    The averaged weights with the best held-out value are `best.safetensors`; the latest ones are `last.safetensors`.
    The value is the preference share, plus a hundredth of the lower half's PSNR, plus half of the mouth's sharpness.
    """
    torch.manual_seed(recipe.seed)
    expert_path = expert or recipe.expert
    uses_expert = is_ever_on(recipe.losses.sync) or is_ever_on(recipe.losses.features)
    if uses_expert and expert_path is None:
        raise RecipeError(
            f"The recipe {recipe.name!r} has a sync or feature term: name a trained expert with --expert."
        )
    judge = load_expert(expert_path) if expert_path is not None else None
    selection = recipe.data.selection()
    sampler = ClipSampler(load_split(data, selection, "train"), selection.crowds)
    held_out = _spread(load_split(data, selection, "validation"), recipe.validation_clips)
    generator = Wav2Lip(recipe.model.width, recipe.model.face_size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if initial is not None:
        _load_initial(generator, initial)
    average = _Average(generator, recipe.average_decay)
    optimiser = make_optimiser(generator, recipe.optimiser)
    critic = _make_critic(recipe) if is_ever_on(recipe.losses.adversarial) else None
    run = Run(output, recipe, resume=resume)
    parts: dict[str, object] = {"generator": generator, "average": average.model, "optimiser": optimiser}
    if critic is not None:
        parts["critic"] = critic
    run.load(parts)
    metadata = {
        "kind": "generator",
        "width": str(recipe.model.width),
        "face_size": str(recipe.model.face_size),
        "lead_seconds": str(recipe.lead_seconds),
        "reference": recipe.batch.reference,
        "recipe": recipe.name,
    }
    bf16 = recipe.precision == "bf16"
    sums: dict[str, list[float]] = {}
    stopped_early = False

    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as ahead:

        def draw(step: int) -> StepTensors:
            settings = recipe.batch
            batch = generator_batch(
                sampler,
                np.random.default_rng([recipe.seed, step]),
                num_clips=settings.clips,
                num_frames=settings.frames,
                lead_seconds=recipe.lead_seconds,
                num_negatives=settings.negatives,
                foreign_share=settings.foreign_share if value_at(recipe.losses.sync, step) > 0 else 0.0,
                silence_share=settings.silence_share,
                least_reference_distance=settings.least_reference_distance,
                num_reference_candidates=settings.reference_candidates,
                reference=settings.reference,
                faces=recipe.faces.augmentation(),
                sound=recipe.sound.augmentation(),
                window_frames=EXPERT_FRAMES if judge is None else judge.frames,
                pool=pool,
            )
            return StepTensors(**{name: torch.from_numpy(value) for name, value in batch.__dict__.items()})

        coming = ahead.submit(draw, run.state.step)
        while run.state.step < recipe.steps:
            step = run.state.step
            batch = coming.result()
            coming = ahead.submit(draw, step + 1)
            random = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
            generator.train()
            set_learning_rate(optimiser, recipe.optimiser, step, recipe.steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                generated = generate_faces(generator, batch.targets, batch.references, batch.frame_windows)
                terms = _losses(recipe, step, batch, generated, judge, critic, random)
            total = torch.stack([weight * value.float() for weight, value in terms.values()]).sum()
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(generator.parameters(), recipe.optimiser.clip_norm)
            if bool(torch.isfinite(norm)):
                optimiser.step()
            average.update(generator, step)
            if "adversarial" in terms and critic is not None:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    sums.setdefault("critic", []).append(critic.learn(batch, generated))
            for name, (_, value) in terms.items():
                sums.setdefault(name, []).append(float(value.detach()))
            run.state.step = step + 1
            if run.state.step % recipe.validate_every == 0 or run.state.step == recipe.steps:
                measures = {name: float(np.mean(values)) for name, values in sums.items()}
                sums.clear()
                measures |= validate_generator(average.model, judge, recipe, held_out)
                sharpness = min(1.0, measures["mouth_sharpness"])
                quality = measures["psnr_lower"] / 100 + sharpness / 2 + measures.get("preference", 0.0)
                run.judge(quality, measures, average.model, metadata)
                run.save(parts)
                save_weights(average.model, run.folder / "last.safetensors", metadata)
                run.log({**measures, "seconds": run.state.seconds, "skipped": sum(sampler.skipped.values())})
                if on_progress:
                    on_progress(run.state.step, recipe.steps, measures)
                if recipe.patience and run.state.validations_since_best >= recipe.patience:
                    stopped_early = True
                    break
            elif on_progress:
                on_progress(
                    run.state.step, recipe.steps, {name: float(v.detach()) for name, (_, v) in terms.items()}
                )
        coming.cancel()
    return run.report(stopped_early=stopped_early, skipped=sampler.skipped)
