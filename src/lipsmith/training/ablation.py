"""The paper's table 3, and its baselines, by one command:

    python -m lipsmith.training.ablation RECIPES --output RUNS [--data PREPARED] [--seeds 0 1 2]

Experts with windows of T_v = 1, 3 and 5 frames are trained, and a generator with L1 alone. With each of the experts
that generator learns on, once with the expert frozen and once with the expert learning on from generated faces; then
LipGAN and Speech2Vid, which have no expert. Each expert is measured as it is after all that, on people it never saw;
each generator by a judge that was in no training of the others. The recipes are `expert.yaml`, `judge.yaml`,
`reconstruction.yaml`, `wav2lip.yaml`, `lipgan.yaml` and `speech2vid.yaml` of one folder. Without prepared clips the
people are drawn. What was done is not done again: a run that was interrupted goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lipsmith.data.clips import INDEX_NAME, Clip
from lipsmith.data.samples import load_split
from lipsmith.data.synthetic import Conditions, prepare_synthetic
from lipsmith.errors import ExitCode, LipsmithError, OutputError
from lipsmith.evaluation.held_out import evaluate_generator, make_pairs, open_generator
from lipsmith.evaluation.sync_accuracy import measure_accuracy
from lipsmith.evaluation.sync_score import SyncScore
from lipsmith.training import train
from lipsmith.training.expert import Expert, load_expert
from lipsmith.training.recipe import load_recipe

WINDOWS = (1, 3, 5)
BASELINES = ("lipgan", "speech2vid")
PAPER = {
    (1, True): (55.6, 10.33, 3.19),
    (1, False): (79.3, 8.583, 4.845),
    (3, True): (72.3, 10.14, 3.214),
    (3, False): (87.4, 7.230, 6.533),
    (5, True): (73.6, 9.953, 3.508),
    (5, False): (91.6, 6.386, 7.789),
}
"""Off-sync accuracy in per cent, LSE-D and LSE-C of the paper's table 3, by (T_v, fine-tuned)."""

DRAWN_CONDITIONS = Conditions(jitter=0.01, picture_noise=6.0, light_flicker=0.03, sound_noise=0.02)
_FINE_TUNING_RATE = 3e-4
_JUDGE_SEED = 1_000

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of the table: one training, one seed.

    Attributes:
        name: Of the run.
        seed: Of the run.
        frames: T_v of its expert; None for a baseline or footage.
        fine_tuned: Whether its expert learned on; None likewise.
        accuracy: Off-sync accuracy of the expert after the training, 0 to 1; None likewise.
        lse_d: Least over the shifts of the judge's distance between lips and foreign words, mean over the clips.
        lse_c: Median over the shifts minus the least, likewise.
        preference: Share of windows whose lips prefer the words they are to say, by the judge; chance 0.5.
        offset_within_one: Share of clips whose offset is within one frame.
        psnr_lower: Decibels of the lower half with the clip's own words; None for footage.
    """

    name: str
    seed: int
    frames: int | None
    fine_tuned: bool | None
    accuracy: float | None
    lse_d: float
    lse_c: float
    preference: float
    offset_within_one: float
    psnr_lower: float | None


class Ablation:
    """All runs of one seed, under one folder.

    Args:
        recipes: Folder of the six recipes.
        data: Prepared clips.
        output: Folder of the runs.
        seed: Of every run; the judge has another.
        overrides: Fields of all recipes that are to have other values.
        say: Is told what is done.
    """

    def __init__(
        self, recipes: Path, data: Path, output: Path, seed: int, overrides: dict[str, Any], say: Say
    ) -> None:
        self.recipes, self.data, self.output, self.seed = recipes, data, output, seed
        self.overrides = overrides
        self.say = say
        selection = load_recipe(recipes / "judge.yaml", overrides).data.selection()
        self.known: Sequence[Clip] = load_split(data, selection, "validation")
        self.clips: Sequence[Clip] = load_split(data, selection, "test")
        self.judge: Expert | None = None

    def run(self) -> list[Row]:
        """Train what is missing, and measure."""
        self.judge = load_expert(self._train("judge", "judge", seed=self.seed + _JUDGE_SEED))
        rows = []
        initial = self._train("reconstruction", "reconstruction")
        for frames in WINDOWS:
            expert = self._train(f"expert_{frames}", "expert", changes={"model.frames": frames})
            for fine_tuned in (True, False):
                changes: dict[str, Any] = {}
                if fine_tuned:
                    changes["fine_tune_expert"] = {"learning_rate": _FINE_TUNING_RATE}
                name = f"wav2lip_{frames}_{'fine_tuned' if fine_tuned else 'frozen'}"
                run = self._train(name, "wav2lip", expert=expert, initial=initial, changes=changes)
                after = load_expert(run / "expert.safetensors" if fine_tuned else expert)
                rows.append(self._measure(name, run, frames, fine_tuned, after))
        for name in BASELINES:
            rows.append(self._measure(name, self._train(name, name), None, None, None))
        return rows

    def _train(
        self,
        name: str,
        recipe: str,
        *,
        seed: int | None = None,
        expert: Path | None = None,
        initial: Path | None = None,
        changes: dict[str, Any] | None = None,
    ) -> Path:
        folder = self.output / name
        self.say(f"seed {self.seed}: {name}")
        train(
            self.recipes / f"{recipe}.yaml",
            self.data,
            folder,
            expert=expert,
            initial=initial / "last.safetensors" if initial else None,
            resume=True,
            overrides={"seed": self.seed if seed is None else seed, **self.overrides, **(changes or {})},
        )
        return folder

    def _measure(
        self, name: str, run: Path, frames: int | None, fine_tuned: bool | None, expert: Expert | None
    ) -> Row:
        """The generator that the run ended with, and its expert.

        The last weights, not the best ones by the run's own expert: that is what is in question.
        """
        path = run / "row.json"
        if path.exists():
            return Row(**json.loads(path.read_text()))
        assert self.judge is not None
        accuracy = None
        if expert is not None:
            found = measure_accuracy(
                expert, self.clips, self.known, threshold_from="validation clips", num_resamples=1
            )
            accuracy = found.accuracy.value
        generator = open_generator(str(run / "last.safetensors"))
        report = evaluate_generator(generator, self.judge, make_pairs(self.clips))
        row = Row(
            name,
            self.seed,
            frames,
            fine_tuned,
            accuracy,
            **_sync_measures([pair.scores["generated"] for pair in report.pairs]),
            psnr_lower=report.psnr_lower.value,
        )
        if not (self.output / "footage.json").exists():
            footage = {
                condition: _sync_measures([pair.scores[condition] for pair in report.pairs])
                for condition in ("real", "laid over")
            }
            (self.output / "footage.json").write_text(json.dumps(footage))
        path.write_text(json.dumps(asdict(row)))
        return row

    def footage(self) -> list[Row]:
        """What the judge says of real clips, and of foreign words laid over them; after `run`."""
        footage = json.loads((self.output / "footage.json").read_text())
        return [
            Row(condition, self.seed, None, None, None, **measures, psnr_lower=None)
            for condition, measures in footage.items()
        ]


def _sync_measures(scores: Sequence[SyncScore]) -> dict[str, float]:
    windows = np.array([score.num_windows for score in scores])
    preferences = np.array([score.preference_share for score in scores])
    offsets = [score.av_offset_frames for score in scores]
    return {
        "lse_d": float(np.nanmean([score.lse_d for score in scores])),
        "lse_c": float(np.nanmean([score.lse_c for score in scores])),
        "preference": float(np.average(preferences, weights=windows)),
        "offset_within_one": float(np.mean([offset is not None and abs(offset) <= 1 for offset in offsets])),
    }


def write_table(rows: Sequence[Row], folder: Path) -> str:
    """Write `table.json` and `table.md`, means over the seeds, with the range where there are several; the latter."""
    names = list(dict.fromkeys(row.name for row in rows))
    seeds = sorted({row.seed for row in rows})
    lines = [
        f"Seeds {', '.join(map(str, seeds))}. Accuracy: of the expert after the training, on off-sync pairs of people "
        "that it never saw. The other columns are of a judge that was in no training of the rows: LSE with its "
        "distances, the share of windows that prefer the words they are to say (chance 50 %), clips within one frame. "
        "In round brackets the paper's numbers, whose LSE are SyncNet's; in square ones the range over the seeds.",
        "",
        "| | T_v | expert | off-sync accuracy | LSE-D ↓ | LSE-C ↑ | prefers its words | offset within 1 | PSNR |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        same = [row for row in rows if row.name == name]
        first = same[0]
        paper = (
            PAPER.get((first.frames, first.fine_tuned))
            if first.frames and first.fine_tuned is not None
            else None
        )
        of = [f" ({value:g})" for value in paper] if paper else ["", "", ""]
        expert = {None: "–", True: "fine-tuned", False: "frozen"}[first.fine_tuned]
        label = "Wav2Lip" if first.frames else name
        cells = [
            label,
            str(first.frames or "–"),
            expert,
            _cell([row.accuracy for row in same], "{:.1f} %", 100) + of[0],
            _cell([row.lse_d for row in same], "{:.3f}") + of[1],
            _cell([row.lse_c for row in same], "{:.3f}") + of[2],
            _cell([row.preference for row in same], "{:.1f} %", 100),
            _cell([row.offset_within_one for row in same], "{:.0f} %", 100),
            _cell([row.psnr_lower for row in same], "{:.1f} dB"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    (folder / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return text


def _cell(values: Sequence[float | None], form: str, scale: float = 1.0) -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "–"
    text = form.format(float(np.mean(known)))
    if len(known) > 1:
        text += f" [{form.format(min(known))}, {form.format(max(known))}]"
    return text


def draw_people(folder: Path, num_speakers: int, clips_per_speaker: int, seconds: float) -> dict[str, Any]:
    """Prepare drawn people, if they are not there yet; who is held out, as overrides of recipes."""
    if not (folder / INDEX_NAME).exists():
        prepare_synthetic(
            folder,
            num_speakers=num_speakers,
            clips_per_speaker=clips_per_speaker,
            seconds=seconds,
            conditions=DRAWN_CONDITIONS,
        )
    held_out = max(2, num_speakers // 6)
    first = num_speakers - 2 * held_out
    return {
        "data.validation": [f"drawn_{k}" for k in range(first, first + held_out)],
        "data.test": [f"drawn_{k}" for k in range(first + held_out, num_speakers)],
    }


def main(arguments: list[str] | None = None) -> int:
    """Run with `arguments` (those of the process when None); returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lipsmith.training.ablation", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("recipes", type=Path, help="folder of the recipes, see recipes/ablation")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and of the table")
    parser.add_argument(
        "--data", type=Path, help="folder that `lipsmith prepare` wrote; drawn people when left out"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--speakers", type=int, default=36, help="people drawn, a third of them held out")
    parser.add_argument("--clips-per-speaker", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.2, help="length of a drawn clip")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for all recipes")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(_ablate(options))
    except LipsmithError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return ExitCode.OK


def _ablate(options: argparse.Namespace) -> str:
    from lipsmith.training.recipe import parse_override

    overrides: dict[str, Any] = {}
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        data = options.data
        if data is None:
            data = options.output / "drawn"
            overrides = draw_people(data, options.speakers, options.clips_per_speaker, options.seconds)
        overrides |= dict(parse_override(change) for change in options.set)
        rows: list[Row] = []
        for seed in options.seeds:
            ablation = Ablation(
                options.recipes,
                data,
                options.output / f"seed_{seed}",
                seed,
                overrides,
                _show,
            )
            rows += ablation.run() + ablation.footage()
        return write_table(rows, options.output)
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be written: {error.strerror}.") from error


def _show(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
