"""Evaluate a generator on held-out people: `python -m lipsmith.evaluation MODEL --judge … --data … --recipe …`."""

import argparse
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2

from lipsmith.errors import ExitCode, LipsmithError, OutputError
from lipsmith.evaluation.held_out import (
    evaluate_generator,
    load_clips,
    make_pairs,
    open_generator,
    open_judge,
    pair_strip,
)


def main(arguments: list[str] | None = None) -> int:
    """Run with `arguments` (those of the process when None); returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lipsmith.evaluation", description=__doc__)
    parser.add_argument("model", help="weights (name, folder, checkpoint) or a training's run folder")
    parser.add_argument(
        "--judge", required=True, help="an expert that was in no loss: its name or run folder"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that `lipsmith prepare` wrote")
    parser.add_argument("--recipe", type=Path, required=True, help="whose `data` says who is held out")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--per-clip", type=int, default=1, help="foreign speeches for each face")
    parser.add_argument("--max-frames", type=int, default=125, help="longest stretch of a clip")
    parser.add_argument("--limit", type=int, help="evaluate only so many pairs, spread over all")
    parser.add_argument("--runtime", default="openvino", help="for weights folders")
    parser.add_argument("--audio-lead", type=Fraction, help="seconds; the weights' own when left out")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything, with a row for each pair"
    )
    parser.add_argument("--strips", type=Path, metavar="FOLDER", help="write film strips")
    parser.add_argument("--num-strips", type=int, default=12)
    options = parser.parse_args(arguments)
    try:
        _evaluate(options)
    except LipsmithError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return ExitCode.OK


def _evaluate(options: argparse.Namespace) -> None:
    generator = open_generator(options.model, runtime=options.runtime)
    if options.audio_lead is not None:
        generator = replace(generator, lead_seconds=options.audio_lead)
    pairs = make_pairs(
        load_clips(options.data, options.recipe, options.split),
        per_clip=options.per_clip,
        max_frames=options.max_frames,
    )
    if options.limit and options.limit < len(pairs):
        pairs = [pairs[i * len(pairs) // options.limit] for i in range(options.limit)]
    report = evaluate_generator(
        generator,
        open_judge(options.judge),
        pairs,
        on_progress=lambda done, total: _show(f"\r{done} of {total} pairs"),
    )
    _show("\n")
    sys.stdout.write(report.to_markdown())
    try:
        if options.json:
            options.json.write_text(report.to_json())
        if options.strips:
            options.strips.mkdir(parents=True, exist_ok=True)
            wanted = min(options.num_strips, len(pairs))
            for k in range(wanted):
                pair = pairs[k * len(pairs) // wanted]
                path = options.strips / f"{k:02d}_{pair.face.record.speaker}.png"
                cv2.imwrite(str(path), pair_strip(generator, pair))
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be written: {error.strerror}.") from error


def _show(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(text)


if __name__ == "__main__":
    sys.exit(main())
