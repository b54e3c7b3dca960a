"""`lipsmith sync`: a video and a speech in, a lip-synced video out."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsmith.cli.options import Articulation, AudioLead, Force, JsonReport, Model
from lipsmith.cli.output import say, warn, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.errors import UsageError

if TYPE_CHECKING:
    from lipsmith.pipeline import SyncOptions, SyncReport
    from lipsmith.provenance.identity import Identity


class Length(StrEnum):
    """`lipsmith.timeline.LENGTH_POLICIES`, for the help page."""

    AUTO = "auto"
    LOOP = "loop"
    BOUNCE = "bounce"
    HOLD = "hold"
    CUT = "cut"


def sync(
    video: Annotated[
        Path,
        typer.Argument(metavar="VIDEO", help="The talking-face video, or a still image.", show_default=False),
    ],
    audio: Annotated[
        Path,
        typer.Argument(
            metavar="AUDIO", help="The speech: a sound file, or a video with sound.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The video to write: .mp4, .mov or .mkv.", show_default=False),
    ],
    model: Model = "default",
    face: Annotated[
        int | None,
        typer.Option(
            "--face", min=1, help="Whose mouth: 1 is the largest face, 2 the next.", show_default="largest"
        ),
    ] = None,
    length: Annotated[
        Length,
        typer.Option("--length", help="When the video is shorter than the speech; a longer one is cut."),
    ] = Length.AUTO,
    audio_lead: AudioLead = None,
    articulation: Articulation = None,
    keep_noise: Annotated[
        bool, typer.Option("--keep-noise", help="Let sounds that are not speech move the lips too.")
    ] = False,
    runtime: Annotated[
        str, typer.Option("--runtime", help="openvino, or torch where it is installed.")
    ] = "openvino",
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, or with torch also cuda or mps.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of the runtime.", show_default="all cores")
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option("--crf", min=0, max=51, help="Quality: lower is better, larger.", show_default="18"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", help="The encoder's preset, ultrafast to veryslow.", show_default="veryfast"
        ),
    ] = None,
    encoder: Annotated[str, typer.Option("--encoder", help="FFmpeg's name of the encoder.")] = "libx264",
    visible_mark: Annotated[
        bool, typer.Option("--visible-mark", help="Burn a label into the picture.")
    ] = False,
    no_provenance: Annotated[
        bool, typer.Option("--no-provenance", help="Leave out what says in the file that it is synthetic.")
    ] = False,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", help="PEM chain to sign with, in place of this computer's identity."),
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option("--private-key", help="PEM key that belongs to --certificate.")
    ] = None,
    keep_track: Annotated[
        bool,
        typer.Option(
            "--keep-track", help="Keep where the face is beside VIDEO: the next speech for it starts at once."
        ),
    ] = False,
    force: Force = False,
    as_json: JsonReport = False,
) -> None:
    """Make the mouth in VIDEO say the speech in AUDIO."""
    identity = _identity(certificate, private_key, signing=not no_provenance)

    from lipsmith.media.write import EncoderOptions
    from lipsmith.pipeline import SyncOptions

    options = SyncOptions(
        face=None if face is None else face - 1,
        runtime=runtime,
        device=device,
        threads=threads,
        length=length.value,
        encoder=EncoderOptions(codec=encoder, quality=crf, preset=preset),
        provenance=not no_provenance,
        identity=identity,
        visible_mark=visible_mark,
        audio_lead_seconds=audio_lead,
        articulation=articulation,
        close_in_silence=not keep_noise,
        overwrite=force,
        keep_track=keep_track,
    )
    report(run(video, audio, output, model=model, options=options), as_json)


def run(video: Path, audio: Path, output: Path, *, model: str, options: "SyncOptions") -> "SyncReport":
    """`lipsmith.sync` with progress bars."""
    from lipsmith.pipeline import sync as sync_files

    with ProgressBars() as bars:
        return sync_files(
            video,
            audio,
            output,
            model=model,
            options=options,
            on_progress=lambda progress: bars.show(progress.stage, progress.done, progress.total),
        )


def report(done: "SyncReport", as_json: bool) -> None:
    """Write the output's path or the whole report as JSON as data, and a summary for a person as words."""
    if as_json:
        write_json(done.to_dict())
    else:
        write_answer(str(done.output))
    say(
        f"{done.num_frames} frames, {done.num_synced} synced, {done.num_frames - done.num_synced} without a "
        f"face; {done.duration_seconds:.2f} s of video in {done.total_seconds:.1f} s "
        f"({done.frames_per_second:.1f} frames a second), {done.model} on {done.runtime}."
    )
    say(
        "Seconds of work (stages overlap): "
        + ", ".join(f"{stage} {spent:.1f}" for stage, spent in done.seconds.items())
        + "."
    )
    for warning in done.warnings:
        warn(warning)


def _identity(certificate: Path | None, private_key: Path | None, *, signing: bool) -> "Identity | None":
    if certificate is None and private_key is None:
        return None
    if certificate is None or private_key is None:
        raise UsageError("--certificate and --private-key belong together: give both.")
    if not signing:
        raise UsageError("--no-provenance signs nothing: leave out --certificate and --private-key.")
    from lipsmith.provenance.identity import load_identity

    return load_identity(certificate, private_key)
