"""An analysis on paper: table 2's layout beside the paper's own numbers, CSV, JSON, plots."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lipsmith.errors import InputError, OutputError
from lipsmith.study.analysis import Analysis, Score, Share
from lipsmith.study.folder import ALL_GROUPS, PREFERENCE, SCALES, SCORES, Study
from lipsmith.study.intervals import Estimate
from lipsmith.study.paper import PaperRow, paper_rows

METRICS = ("lse_d", "lse_c", "fid")
_DASH = "—"
_PLOTS = frozenset(("scores.png", "distributions.png", "preferences.png"))
_NAMES = {
    "sync": "Sync Acc.",
    "visual": "Visual Qual.",
    "overall": "Overall Experience",
    PREFERENCE: "Preference",
}
_METRIC_NAMES = {"lse_d": "LSE-D ↓", "lse_c": "LSE-C ↑", "fid": "FID ↓"}
Metrics = Mapping[tuple[str, str], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of table 2: metrics where they are given, our estimates by question, the paper's rows of that system."""

    system: str
    group: str
    metrics: Mapping[str, float]
    answers: Mapping[str, Estimate]
    paper: Sequence[PaperRow]


def read_metrics(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """LSE-D, LSE-C and FID for the table, from a CSV with the columns system, video_type, lse_d, lse_c, fid.

    `video_type` may be left out, or empty for all kinds together; so may any metric.

    Returns (system, group) → metric → value.

    Raises:
        InputError: no such file, no column `system`, or a value that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The metrics {path} cannot be read as CSV: {error}.") from error
    if "system" not in (reader.fieldnames or ()):
        raise InputError(
            f"The metrics {path} have no column `system`; wanted are system, video_type, {', '.join(METRICS)}."
        )
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    for number, line in enumerate(lines, 2):
        try:
            values = {name: float(line[name]) for name in METRICS if line.get(name)}
        except ValueError as error:
            raise InputError(f"Line {number} of {path} holds a metric that is no number: {error}.") from error
        metrics[line["system"] or "", line.get("video_type") or ""] = values
    return metrics


def without_row(study: Study, metrics: Metrics) -> list[str]:
    """Whose metrics stand in no row of the table, for a person to read: a name is perhaps misspelt."""
    groups = {"", *study.groups} | ({ALL_GROUPS} if len(study.groups) > 1 else set())
    systems = {system.name for system in study.systems}
    return [
        f"{system} ({group})" if group else system
        for system, group in metrics
        if system not in systems or group not in groups
    ]


def table_rows(study: Study, analysis: Analysis, metrics: Metrics | None = None) -> list[TableRow]:
    """The rows of table 2: by group, then by system; all groups together at the end where there are several."""
    metrics = metrics or {}
    means = {(score.group, score.system, score.question): score.mean for score in analysis.scores}
    shares = {(share.group, share.system): share.share for share in analysis.shares}
    groups = study.groups if len(study.groups) == 1 else [*study.groups, ALL_GROUPS]
    nothing = Estimate(None, None, None)
    return [
        TableRow(
            system=system.name,
            group=group,
            metrics=metrics.get((system.name, group))
            or (metrics.get((system.name, "")) if group in ("", ALL_GROUPS) or len(groups) == 1 else None)
            or {},
            answers={
                **{question: means.get((group, system.name, question), nothing) for question in SCALES},
                PREFERENCE: shares.get((group, system.name), nothing),
            },
            paper=paper_rows(system.name, group),
        )
        for group in groups
        for system in study.systems
    ]


def table_in_markdown(study: Study, analysis: Analysis, metrics: Metrics | None = None) -> str:
    """Table 2 in Markdown: each of our numbers with its interval, and the paper's beside it."""
    head = ["Method", "Video Type", *_METRIC_NAMES.values()]
    for name in _NAMES.values():
        head += [name, "paper"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "--:|" * (len(head) - 2)]
    for row in table_rows(study, analysis, metrics):
        cells = [row.system, row.group or _DASH]
        cells += [f"{row.metrics[name]:.4g}" if name in row.metrics else _DASH for name in METRICS]
        for question in _NAMES:
            cells += [
                _in_words(row.answers[question], question),
                " / ".join(_number(paper.value(question), question) for paper in row.paper) or _DASH,
            ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"{len(analysis.kept)} raters, {len(analysis.ratings)} scores, {len(analysis.votes)} votes. Scores from 1 to "
        f"5, in brackets intervals of {analysis.rules['interval']}. Left out: {analysis.rules['left_out']}.",
        "",
        "“paper”: table 2 of the paper, 14 evaluators, other videos; where a row fits several kinds of video, "
        "Dubbed / Random / TTS. Some of its scores lie below 1: compare orders, not levels.",
    ]
    if analysis.agreement:
        said = "; ".join(
            f"{_NAMES[agreement.question]} "
            + ", ".join(f"{_alpha(value)} ({metric})" for metric, value in agreement.alpha.items())
            for agreement in analysis.agreement
        )
        lines += ["", f"Agreement between raters, Krippendorff's alpha: {said}."]
    if analysis.warnings:
        lines += ["", *(f"* {warning}" for warning in analysis.warnings)]
    return "\n".join(lines) + "\n"


def write_report(
    study: Study, analysis: Analysis, folder: Path, metrics: Metrics | None = None
) -> list[Path]:
    """Write table, CSV, JSON and plots into a folder, replacing those of an earlier analysis.

    Returns the paths of what was written. Raters are numbered from 1, as the lines of `study links`.

    Raises:
        OutputError: the folder cannot be written.
    """
    rows = table_rows(study, analysis, metrics)
    text = json.dumps(analysis_to_dict(analysis), indent=1, ensure_ascii=False)
    contents = {
        "table.md": table_in_markdown(study, analysis, metrics).encode(),
        "analysis.json": f"{text}\n".encode(),
        "table.csv": _csv(_table_lines(rows)),
        "scores.csv": _csv([_flat(asdict(score)) for score in analysis.scores]),
        "preferences.csv": _csv([_flat(asdict(share)) for share in analysis.shares]),
        "differences.csv": _csv([_flat(asdict(entry)) for entry in analysis.differences]),
        "raters.csv": _csv([_numbered(asdict(summary)) for summary in analysis.raters]),
        "ratings.csv": _csv([_numbered(asdict(rating)) for rating in analysis.ratings]),
        "votes.csv": _csv([_numbered(_flat(asdict(vote))) for vote in analysis.votes]),
    }
    if analysis.scores:
        contents["scores.png"] = _png(_draw_means(study, analysis.scores))
        contents["distributions.png"] = _png(_draw_distributions(study, analysis.scores))
    if analysis.shares:
        contents["preferences.png"] = _png(_draw_shares(study, analysis.shares))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write_whole(folder / name, content)
        for name in _PLOTS - contents.keys():  # of an earlier analysis, which had something to draw
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"The analysis cannot be written to {folder}: {error.strerror}. Choose another --output."
        ) from error
    return [folder / name for name in sorted(contents)]


def analysis_to_dict(analysis: Analysis) -> dict[str, object]:
    """The analysis in types that JSON knows; raters numbered from 1, single answers left to the CSV files."""
    fields = asdict(analysis)
    del fields["ratings"], fields["votes"]
    fields["num_ratings"], fields["num_votes"] = len(analysis.ratings), len(analysis.votes)
    fields["raters"] = [_numbered(summary) for summary in fields["raters"]]
    return fields


def _numbered(fields: dict[str, object]) -> dict[str, object]:
    number = fields["rater"]
    assert isinstance(number, int)
    return {**fields, "rater": number + 1}


def _flat(fields: Mapping[str, object]) -> dict[str, object]:
    """Estimates as value, low and high; counts of scores and lists of names as one cell each."""
    flat: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= {name: value["value"], "low": value["low"], "high": value["high"]}
        elif name == "distribution" and isinstance(value, Sequence):
            flat |= {f"num_{score}": count for score, count in zip(SCORES, value, strict=True)}
        elif isinstance(value, tuple):
            flat[name] = " ".join(str(entry) for entry in value)
        else:
            flat[name] = value
    return flat


def _table_lines(rows: Iterable[TableRow]) -> list[dict[str, object]]:
    lines = []
    for row in rows:
        line: dict[str, object] = {"method": row.system, "video_type": row.group}
        line |= {name: row.metrics.get(name) for name in METRICS}
        for question, answer in row.answers.items():
            line |= {question: answer.value, f"{question}_low": answer.low, f"{question}_high": answer.high}
            line[f"{question}_paper"] = " / ".join(
                _number(paper.value(question), question) for paper in row.paper
            )
        lines.append(line)
    return lines


def _in_words(answer: Estimate, question: str) -> str:
    words = _number(answer.value, question)
    if answer.low is None:
        return words
    return f"{words} [{_number(answer.low, question)}, {_number(answer.high, question)}]"


def _number(value: float | None, question: str) -> str:
    if value is None:
        return _DASH
    return f"{100 * value:.1f}%" if question == PREFERENCE else f"{value:.2f}"


def _alpha(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _csv(lines: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    if lines:
        writer = csv.DictWriter(text, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue().encode()


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _draw_means(study: Study, scores: Sequence[Score]) -> Figure:
    figure = Figure(figsize=(4.2 * len(SCALES), 3.6), layout="constrained")
    for number, question in enumerate(SCALES):
        axes = figure.add_subplot(1, len(SCALES), number + 1)
        asked = [score for score in scores if score.question == question]
        _draw_estimates(axes, study, [(s.group, s.system, s.mean) for s in asked])
        axes.set_title(_NAMES[question])
        axes.set_ylim(0.8, 5.2)
        axes.set_yticks(SCORES)
    _name_groups(figure, [score.group for score in scores])
    figure.suptitle("Mean scores with intervals of 95 %")
    return figure


def _draw_shares(study: Study, shares: Sequence[Share]) -> Figure:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    _draw_estimates(axes, study, [(share.group, share.system, share.share) for share in shares])
    axes.set_title("Share of the votes with intervals of 95 %")
    _name_groups(figure, [share.group for share in shares])
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure


def _draw_estimates(axes: Axes, study: Study, estimates: Sequence[tuple[str, str, Estimate]]) -> None:
    """Points with intervals: a place for each system, groups side by side in colours of their own."""
    groups = list(dict.fromkeys(group for group, _, _ in estimates))
    systems = [system.name for system in study.systems if system.name in {name for _, name, _ in estimates}]
    for number, group in enumerate(groups):
        aside = (number - (len(groups) - 1) / 2) * 0.6 / max(len(groups), 1)
        for system_group, system, answer in estimates:
            if system_group != group or answer.value is None:
                continue
            place = systems.index(system) + aside
            if answer.low is not None and answer.high is not None:
                axes.plot([place, place], [answer.low, answer.high], color=f"C{number}", linewidth=2)
            axes.plot([place], [answer.value], "o", color=f"C{number}")
    axes.set_xticks(range(len(systems)), systems, rotation=20, ha="right")
    axes.set_xlim(-0.6, len(systems) - 0.4)
    axes.grid(axis="y", alpha=0.3)


def _name_groups(figure: Figure, groups: Iterable[str]) -> None:
    names = list(dict.fromkeys(groups))
    if len(names) > 1:
        handles = [Patch(color=f"C{number}", label=name) for number, name in enumerate(names)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(names))


def _draw_distributions(study: Study, scores: Sequence[Score]) -> Figure:
    groups = {score.group for score in scores}
    group = ALL_GROUPS if ALL_GROUPS in groups else next(iter(groups))
    systems = [system.name for system in study.systems]
    figure = Figure(figsize=(4.2 * len(SCALES), 0.9 + 0.4 * len(systems)), layout="constrained")
    for number, question in enumerate(SCALES):
        axes = figure.add_subplot(1, len(SCALES), number + 1)
        for score in scores:
            if score.question != question or score.group != group:
                continue
            left = 0.0
            for value, count in zip(SCORES, score.distribution, strict=True):
                part = count / score.num_ratings
                axes.barh(
                    systems.index(score.system), part, left=left, color=_SHADES[value - 1], edgecolor="white"
                )
                left += part
        axes.set_yticks(range(len(systems)), systems)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_title(_NAMES[question])
    handles = [Patch(color=shade, label=str(score)) for score, shade in zip(SCORES, _SHADES, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(SCORES))
    return figure


_SHADES = ("#b2182b", "#ef8a62", "#d9d9d9", "#67a9cf", "#2166ac")  # told apart by the colour-blind too
