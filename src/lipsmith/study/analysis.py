"""What raters answered → means and shares with intervals, agreement, and who was left out and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lipsmith.study.agreement import krippendorff_alpha
from lipsmith.study.folder import ALL_GROUPS, PREFERENCE, SCALES, SCORES, Study
from lipsmith.study.intervals import DEFAULT_DRAWS, Estimate, draw, estimate, estimate_share, ratios
from lipsmith.study.storage import PageAnswers

_FEW_RATERS = 5


@dataclass(frozen=True, slots=True)
class Rating:
    """A score from 1 to 5 of a rater for an item by a system."""

    rater: int
    item: str
    group: str
    system: str
    question: str
    score: int


@dataclass(frozen=True, slots=True)
class Vote:
    """The system whose version of an item a rater prefers, among `systems`."""

    rater: int
    item: str
    group: str
    system: str
    systems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RaterSummary:
    """How far a rater came, the attention checks, and why the answers are left out ("" where they are not)."""

    rater: int
    num_pages: int
    num_answered: int
    num_not_played: int
    num_checks: int
    num_checks_failed: int
    seconds: float
    left_out: str


@dataclass(frozen=True, slots=True)
class Score:
    """Mean score of a system in a group for a question, 1 to 5; `distribution` counts the scores 1, 2, 3, 4, 5."""

    group: str
    system: str
    question: str
    mean: Estimate
    num_ratings: int
    num_raters: int
    num_items: int
    distribution: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """Share of the votes of a group that a system got, 0 to 1."""

    group: str
    system: str
    share: Estimate
    num_chosen: int
    num_votes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean score (or preference share) of `first` less that of `second`; both from the same draws."""

    group: str
    question: str
    first: str
    second: str
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Agreement:
    """Krippendorff's alpha of a question over all clips (preference: over items); None where it is not defined."""

    question: str
    alpha: dict[str, float | None]
    num_raters: int
    num_units: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that `study analyse` finds; the raw answers, unblinded, are in `ratings` and `votes`."""

    study: str
    title: str
    rules: dict[str, object]
    raters: tuple[RaterSummary, ...]
    scores: tuple[Score, ...]
    shares: tuple[Share, ...]
    differences: tuple[Difference, ...]
    agreement: tuple[Agreement, ...]
    ratings: tuple[Rating, ...]
    votes: tuple[Vote, ...]
    warnings: tuple[str, ...]

    @property
    def kept(self) -> list[int]:
        """The raters whose answers count."""
        return [summary.rater for summary in self.raters if not summary.left_out]


def analyse(
    study: Study,
    answers: Sequence[PageAnswers],
    *,
    most_failed_checks: int = 0,
    complete_only: bool = False,
    num_draws: int = DEFAULT_DRAWS,
    seed: int = 0,
) -> Analysis:
    """Analyse the answers to a study.

    A mean is over all ratings of a system, each of the same weight. Intervals are of 95 %, see
    `lipsmith.study.intervals`.

    Args:
        study: what was asked.
        answers: what was answered.
        most_failed_checks: a rater who failed more attention checks is left out, with all answers. A check that was not
            reached is not failed.
        complete_only: leave out raters who did not come to the end.
        num_draws: of the bootstrap.
        seed: of the draws.
    """
    raters = tuple(
        _summarise(
            study, rater, [page for page in answers if page.rater == rater], most_failed_checks, complete_only
        )
        for rater in sorted({page.rater for page in answers})
    )
    kept = [summary.rater for summary in raters if not summary.left_out]
    ratings, votes = _read(study, [page for page in answers if page.rater in kept])
    groups = study.groups if len(study.groups) == 1 else [*study.groups, ALL_GROUPS]
    scores: list[Score] = []
    shares: list[Share] = []
    differences: list[Difference] = []
    for group in groups:
        tables = _Tables(study, group, len(study.groups) == 1, kept, ratings, votes, num_draws, seed)
        scores += tables.scores
        shares += tables.shares
        differences += tables.differences
    return Analysis(
        study=study.digest,
        title=study.title,
        rules={
            "mean": "over all ratings of a system, each of the same weight",
            "interval": "95 %, percentiles of a bootstrap over raters and items (pigeonhole bootstrap)",
            "interval_of_none_or_all": "exact binomial (Clopper-Pearson) with one vote for each rater",
            "draws": num_draws,
            "seed": seed,
            "left_out": f"raters who failed more than {most_failed_checks} attention checks"
            + (", or who did not come to the end" if complete_only else ""),
            "agreement": "Krippendorff's alpha; units are clips, for preference items",
        },
        raters=raters,
        scores=tuple(scores),
        shares=tuple(shares),
        differences=tuple(differences),
        agreement=tuple(_agreements(study, kept, ratings, votes)),
        ratings=tuple(ratings),
        votes=tuple(votes),
        warnings=tuple(_warnings(study, raters, kept)),
    )


def _summarise(
    study: Study,
    rater: int,
    answers: Sequence[PageAnswers],
    most_failed_checks: int,
    complete_only: bool,
) -> RaterSummary:
    pages = study.raters[rater]
    checks = [
        (study.checks[number], page)
        for page in answers
        if page.answers and (number := pages[page.page].check) is not None
    ]
    failed = sum(
        any(
            answer.question in check.accepted and answer.score not in check.accepted[answer.question]
            for answer in page.answers
        )
        for check, page in checks
    )
    left_out = ""
    if failed > most_failed_checks:
        left_out = f"failed {failed} of {len(checks)} attention checks"
    elif complete_only and len(answers) < len(pages):
        left_out = f"answered {len(answers)} of {len(pages)} pages"
    return RaterSummary(
        rater=rater,
        num_pages=len(pages),
        num_answered=len(answers),
        num_not_played=sum(not page.answers for page in answers),
        num_checks=len(checks),
        num_checks_failed=failed,
        seconds=round(sum(page.seconds or 0 for page in answers), 1),
        left_out=left_out,
    )


def _read(study: Study, answers: Sequence[PageAnswers]) -> tuple[list[Rating], list[Vote]]:
    """Scores and votes with the blind names resolved; attention checks are neither."""
    ratings, votes = [], []
    for given in answers:
        page = study.raters[given.rater][given.page]
        group = study.group[page.item]
        for answer in given.answers:
            system = study.clip[answer.clip].system
            if page.kind == "rating" and answer.score is not None:
                ratings.append(Rating(given.rater, page.item, group, system, answer.question, answer.score))
            elif page.kind == PREFERENCE:
                shown = tuple(study.clip[clip].system for clip in page.clips)
                votes.append(Vote(given.rater, page.item, group, system, shown))
    return ratings, votes


class _Tables:
    """The numbers of one group of items: ratings as sums and counts, raters × items, and the draws they share."""

    def __init__(
        self,
        study: Study,
        group: str,
        is_only_group: bool,
        raters: Sequence[int],
        ratings: Sequence[Rating],
        votes: Sequence[Vote],
        num_draws: int,
        seed: int,
    ) -> None:
        items = [item.name for item in study.items if is_only_group or group in (item.group, ALL_GROUPS)]
        self._row = {rater: row for row, rater in enumerate(raters)}
        self._column = {item: column for column, item in enumerate(items)}
        self._group = group
        self.scores: list[Score] = []
        self.shares: list[Share] = []
        self.differences: list[Difference] = []
        if not raters or not items:
            return
        self._drawn = draw(len(raters), len(items), num_draws=num_draws, seed=seed)
        systems = [system.name for system in study.systems]
        for question in SCALES:
            means = {}
            for system in systems:
                given = [
                    rating
                    for rating in ratings
                    if (rating.question, rating.system) == (question, system) and rating.item in self._column
                ]
                if not given:
                    continue
                sums = self._table((rating.rater, rating.item, rating.score) for rating in given)
                counts = self._table((rating.rater, rating.item, 1) for rating in given)
                means[system] = ratios(sums, counts, self._drawn)
                self.scores.append(
                    Score(
                        group=group,
                        system=system,
                        question=question,
                        mean=self._estimate(means[system]),
                        num_ratings=len(given),
                        num_raters=len({rating.rater for rating in given}),
                        num_items=len({rating.item for rating in given}),
                        distribution=tuple(sum(r.score == score for r in given) for score in SCORES),
                    )
                )
            self._compare(question, means)
        given_votes = [vote for vote in votes if vote.item in self._column]
        if not given_votes:
            return
        counts = self._table((vote.rater, vote.item, 1) for vote in given_votes)
        part = {}
        for system in [system.name for system in study.systems if system.compared]:
            chosen = [vote for vote in given_votes if vote.system == system]
            part[system] = ratios(self._table((v.rater, v.item, 1) for v in chosen), counts, self._drawn)
            self.shares.append(
                Share(group, system, self._estimate_share(part[system]), len(chosen), len(given_votes))
            )
        self._compare(PREFERENCE, part)

    def _table(self, values: Iterable[tuple[int, str, int]]) -> NDArray[np.float64]:
        table = np.zeros((len(self._row), len(self._column)))
        for rater, item, value in values:
            table[self._row[rater], self._column[item]] += value
        return table

    def _estimate(self, mean: tuple[float | None, NDArray[np.float64]]) -> Estimate:
        return estimate(*mean, num_raters=len(self._row), num_items=len(self._column))

    def _estimate_share(self, share: tuple[float | None, NDArray[np.float64]]) -> Estimate:
        return estimate_share(*share, num_raters=len(self._row), num_items=len(self._column))

    def _compare(self, question: str, means: Mapping[str, tuple[float | None, NDArray[np.float64]]]) -> None:
        for (first, (mean, draws)), (second, (other, other_draws)) in combinations(means.items(), 2):
            if mean is not None and other is not None:
                difference = self._estimate((mean - other, draws - other_draws))
                self.differences.append(Difference(self._group, question, first, second, difference))


def _agreements(
    study: Study, raters: Sequence[int], ratings: Sequence[Rating], votes: Sequence[Vote]
) -> list[Agreement]:
    agreements = []
    for question in SCALES:
        given = [
            (rating.rater, (rating.item, rating.system), float(rating.score))
            for rating in ratings
            if rating.question == question
        ]
        values = _matrix(raters, given)
        alpha = {
            "ordinal": krippendorff_alpha(values, "ordinal"),
            "interval": krippendorff_alpha(values, "interval"),
        }
        agreements.append(Agreement(question, alpha, *_extent(values)))
    if votes:
        number = {system.name: float(n) for n, system in enumerate(study.systems)}
        values = _matrix(raters, [(vote.rater, vote.item, number[vote.system]) for vote in votes])
        agreements.append(
            Agreement(PREFERENCE, {"nominal": krippendorff_alpha(values, "nominal")}, *_extent(values))
        )
    return agreements


def _matrix(raters: Sequence[int], given: Sequence[tuple[int, object, float]]) -> NDArray[np.float64]:
    """Raters × units, NaN where nothing was given."""
    units = {unit: column for column, unit in enumerate(dict.fromkeys(unit for _, unit, _ in given))}
    row = {rater: number for number, rater in enumerate(raters)}
    matrix = np.full((len(raters), len(units)), np.nan)
    for rater, unit, value in given:
        matrix[row[rater], units[unit]] = value
    return matrix


def _extent(values: NDArray[np.float64]) -> tuple[int, int]:
    given = ~np.isnan(values)
    return int(given.any(axis=1).sum()), int((given.sum(axis=0) > 1).sum())


def _warnings(study: Study, raters: Sequence[RaterSummary], kept: Sequence[int]) -> list[str]:
    warnings = []
    left_out = [summary for summary in raters if summary.left_out]
    if left_out:
        reasons = "; ".join(f"rater {summary.rater + 1} {summary.left_out}" for summary in left_out)
        warnings.append(f"{len(left_out)} of {len(raters)} raters were left out: {reasons}.")
    unfinished = sum(summary.num_answered < summary.num_pages for summary in raters if not summary.left_out)
    if unfinished:
        warnings.append(
            f"{unfinished} of {len(kept)} raters have not come to the end; what they answered counts."
        )
    not_played = sum(summary.num_not_played for summary in raters)
    if not_played:
        warnings.append(f"On {not_played} pages a video did not play: they hold no answers.")
    if 0 < len(kept) < _FEW_RATERS:
        warnings.append(
            f"Only {len(kept)} raters count: intervals from so few are rough, and rather too narrow than too wide."
        )
    return warnings
