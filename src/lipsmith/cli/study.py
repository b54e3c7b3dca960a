"""`lipsmith study`: let people judge videos as in section 4.4 of the paper, and analyse what they answered."""

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsmith.cli.failures import told_in_one_sentence
from lipsmith.cli.options import JsonAnswer, JsonReport
from lipsmith.cli.output import say, warn, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.errors import RuntimeUnavailableError, UsageError

if TYPE_CHECKING:
    from lipsmith.study.build import BuildReport

study = typer.Typer(
    name="study",
    help="Let people judge videos: build the study, serve its pages, analyse the answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_NEEDED = ("fastapi", "jinja2", "matplotlib", "multipart", "pydantic", "sqlalchemy", "uvicorn")

Folder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="Folder that `study build` wrote.", show_default=False)
]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="LIPSMITH_STUDY_DATABASE",
        help="Where answers are: any that SQLAlchemy opens, as postgresql+psycopg://host/name.",
        show_default="STUDY/answers.sqlite3",
    ),
]


@study.command()
@told_in_one_sentence
def build(
    output: Annotated[Path, typer.Option("--output", "-o", help="The new study folder.", show_default=False)],
    systems: Annotated[
        list[str],
        typer.Option(
            "--system",
            "-s",
            metavar="NAME=FOLDER",
            help="A system and the folder of its videos; once for each. The same file name is the same item; "
            "a folder around it is the item's kind, as dubbed/talk.mp4.",
            show_default=False,
        ),
    ],
    anchors: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor",
            metavar="NAME",
            help="A system that is rated but not compared, as real videos in the paper.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="What raters read on top.")] = "Judging talking faces",
    raters: Annotated[int, typer.Option("--raters", "-n", help="Places in the study.")] = 14,
    seed: Annotated[int, typer.Option("--seed", help="Of who sees what, in which order.")] = 0,
    items: Annotated[
        int | None, typer.Option("--items-per-rater", help="Items that each rater sees.", show_default="all")
    ] = None,
    versions: Annotated[
        int | None,
        typer.Option(
            "--versions-per-item",
            help="Systems by which a rater rates each item; 1 is the Latin square.",
            show_default="all",
        ),
    ] = None,
    preference: Annotated[
        bool, typer.Option("--preference/--no-preference", help="Pages that show versions side by side.")
    ] = True,
    checks: Annotated[int, typer.Option("--checks", help="Attention checks of each rater.")] = 2,
    check_shift: Annotated[
        float, typer.Option("--check-shift", metavar="SECONDS", help="How late the sound of such a clip is.")
    ] = 1.0,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="TOML with other words for the pages.", show_default=False)
    ] = None,
    encode: Annotated[
        bool,
        typer.Option("--encode", help="Encode all clips anew, so that files tell nothing of their maker."),
    ] = False,
    common: Annotated[
        bool, typer.Option("--common", help="Leave out items that a system has no video of.")
    ] = False,
    as_json: JsonReport = False,
) -> None:
    """Make a study of folders of videos: blind clips, attention checks, a balanced plan for each rater."""
    _require_extra()
    from lipsmith.study.build import BuildOptions, build_study
    from lipsmith.study.texts import read_texts

    options = BuildOptions(
        title=title,
        num_raters=raters,
        seed=seed,
        items_per_rater=items,
        versions_per_item=versions,
        anchors=tuple(anchors or ()),
        with_preference=preference,
        num_checks=checks,
        shift_seconds=check_shift,
        encode_all=encode,
        common_only=common,
    )
    with ProgressBars() as bars:
        report = build_study(
            _folders(systems),
            output,
            options,
            None if texts is None else read_texts(texts),
            on_progress=lambda done, total: bars.show("clips", done, total),
        )
    _report_build(report, as_json)


def _report_build(report: "BuildReport", as_json: bool) -> None:
    design, made = report.study.design, report.study
    if as_json:
        write_json(
            {
                "folder": report.folder,
                "digest": made.digest,
                "systems": [system.name for system in made.systems],
                "num_items": len(made.items),
                "num_clips": len(made.clips),
                "design": design.model_dump(),
                "left_out": report.left_out,
                "warnings": report.warnings,
            }
        )
    else:
        write_answer(str(report.folder))
    for warning in report.warnings:
        warn(warning)
    if report.left_out:
        warn(f"{len(report.left_out)} items that a system lacks were left out.")
    pages, versions = design.balance["pages_per_rater"], design.balance["ratings_per_version"]
    assert pages is not None and versions is not None
    say(
        f"{len(made.items)} items by {len(made.systems)} systems for {design.num_raters} raters: "
        f"{_span(pages)} pages each, about {made.minutes(made.raters[0])} minutes; each version is rated "
        f"{_span(versions)} times."
    )
    say(f"Serve it with: lipsmith study serve {shlex.quote(str(report.folder))}")


@study.command()
@told_in_one_sentence
def links(
    folder: Folder,
    address: Annotated[
        str, typer.Option("--address", help="What raters reach the server by.")
    ] = "http://127.0.0.1:8321",
    as_json: JsonAnswer = False,
) -> None:
    """List the personal links of the raters, one for each place."""
    _require_extra()
    from lipsmith.study.folder import read_links, read_study

    addresses = [f"{address.rstrip('/')}/r/{token}" for token in read_links(folder, read_study(folder))]
    if as_json:
        write_json(addresses)
    else:
        for link in addresses:
            write_answer(link)


@study.command()
@told_in_one_sentence
def serve(
    folder: Folder,
    host: Annotated[
        str, typer.Option("--host", help="Address of this machine to listen on; 0.0.0.0: all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8321,
    database: Database = None,
    is_open: Annotated[
        bool, typer.Option("--open", help="Let anybody at the address itself take a free place.")
    ] = False,
) -> None:
    """Serve the pages of a study until interrupted. Every answer is committed before the next page shows."""
    _require_extra()
    from lipsmith.study.server import ServedStudy, is_local, serve_study

    def announce(served: ServedStudy) -> None:
        write_answer(served.address)
        if not is_local(host):
            warn("Reached from other machines without encryption: put a web server with HTTPS before it.")
        how = (
            "anybody who opens it may take a place."
            if is_open
            else f"personal links: lipsmith study links {shlex.quote(str(folder))} --address {served.address}"
        )
        say(f"{served.num_raters} places; {how}")
        say(f"Answers go to {served.database}. Stop with Ctrl-C.")

    num_pages = serve_study(
        folder, host=host, port=port, database=database, is_open=is_open, on_start=announce
    )
    say(f"Stopped. {num_pages} answered pages are saved.")


@study.command()
@told_in_one_sentence
def analyse(
    folder: Folder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of table, CSV, JSON and plots.", show_default="STUDY/analysis"
        ),
    ] = None,
    database: Database = None,
    failed_checks: Annotated[
        int, typer.Option("--failed-checks", min=0, help="Leave out raters who failed more checks than this.")
    ] = 0,
    complete: Annotated[
        bool, typer.Option("--complete", help="Leave out raters who did not come to the end.")
    ] = False,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            help="CSV with system, video_type, lse_d, lse_c, fid, to stand in the table.",
            show_default=False,
        ),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Of the bootstrap.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap.")] = 0,
    as_json: JsonReport = False,
) -> None:
    """Analyse the answers: means and shares with intervals, agreement, the paper's table 2, plots."""
    _require_extra()
    from lipsmith.study.analysis import analyse as analyse_answers
    from lipsmith.study.folder import read_study
    from lipsmith.study.report import (
        analysis_to_dict,
        read_metrics,
        table_in_markdown,
        without_row,
        write_report,
    )
    from lipsmith.study.storage import read_answers

    made = read_study(folder)
    given_metrics = {} if metrics is None else read_metrics(metrics)
    found = analyse_answers(
        made,
        read_answers(folder, database, made.digest),
        most_failed_checks=failed_checks,
        complete_only=complete,
        num_draws=draws,
        seed=seed,
    )
    written = write_report(made, found, output or folder / "analysis", given_metrics)
    if as_json:
        write_json(analysis_to_dict(found))
    else:
        write_answer(table_in_markdown(made, found, given_metrics).rstrip())
    for warning in found.warnings:
        warn(warning)
    for name in without_row(made, given_metrics):
        warn(
            f"The metrics of {name} stand in no row of the table: this study has no such system or kind of video."
        )
    say(f"{len(written)} files are in {written[0].parent}")


def _require_extra() -> None:
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"The human study needs {', '.join(missing)}, which is missing: pip install 'lipsmith[study]'."
        )


def _folders(systems: list[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for system in systems:
        name, separator, folder = system.partition("=")
        if not name or not separator or not folder:
            raise UsageError(f"--system {system} names no folder; write it as --system wav2lip=FOLDER.")
        if name in folders:
            raise UsageError(f"--system {name} is there twice; give each system a name of its own.")
        folders[name] = Path(folder)
    return folders


def _span(extent: tuple[int, int]) -> str:
    least, most = extent
    return str(least) if least == most else f"{least} to {most}"
