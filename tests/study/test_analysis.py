"""The analysis against numbers worked out by hand."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from lipsmith.study.analysis import Analysis, analyse
from lipsmith.study.folder import Check, Clip, Design, Item, Page, Study, System
from lipsmith.study.storage import Answer, PageAnswers
from lipsmith.study.texts import Texts

DAY = date(2026, 1, 1)


def make_study(num_raters: int = 3) -> Study:
    """Items x and y by systems a and b; pages 0 to 3 rate a·x, b·x, a·y, b·y, 4 is a check, 5 and 6 compare x and y."""
    pages = (
        *(Page(kind="rating", item=item, clips=(f"{system}{item}",)) for item in "xy" for system in "ab"),
        Page(kind="check", item="x", clips=("late",), check=0),
        *(Page(kind="preference", item=item, clips=(f"b{item}", f"a{item}")) for item in "xy"),
    )
    return Study(
        title="t",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        made_by="lipsmith",
        design=Design(seed=0, num_raters=num_raters, items_per_rater=2, versions_per_item=2, balance={}),
        systems=tuple(System(name=name, compared=True) for name in "ab"),
        items=(Item(name="x", group="Dubbed"), Item(name="y", group="TTS")),
        clips=(
            *(make_clip(system + item, item, system) for item in "xy" for system in "ab"),
            make_clip("late", "x", "a"),
        ),
        checks=(Check(kind="shifted", clip="late", accepted={"sync": (1, 2)}, shift_seconds=1),),
        texts=Texts(),
        raters=(pages,) * num_raters,
    ).with_digest()


def make_clip(name: str, item: str, system: str) -> Clip:
    return Clip(
        id=name, file=f"{name}.mp4", item=item, system=system, sha256="0" * 64, num_bytes=1, seconds=1, width=1,
        height=1, made="copied",
    )  # fmt: skip


def answers_of(
    rater: int, sync: Mapping[str, int], check: int = 1, chosen: tuple[str, ...] = ("ax", "ay")
) -> list[PageAnswers]:
    """Answers to all pages: the given scores for sync, 3 for picture and 4 for all in all; then check and votes."""
    rated = [
        (number, clip, score)
        for number, clip in enumerate(["ax", "bx", "ay", "by"])
        if (score := sync.get(clip)) is not None
    ]
    return [
        *(PageAnswers(rater, number, 10.0, DAY, scores_of(clip, score)) for number, clip, score in rated),
        PageAnswers(rater, 4, 5.0, DAY, scores_of("late", check)),
        *(
            PageAnswers(rater, 5 + number, 7.5, DAY, (Answer("preference", clip, None),))
            for number, clip in enumerate(chosen)
        ),
    ]


def scores_of(clip: str, sync: int) -> tuple[Answer, ...]:
    return (Answer("sync", clip, sync), Answer("visual", clip, 3), Answer("overall", clip, 4))


GOOD = [
    *answers_of(0, {"ax": 5, "bx": 2, "ay": 4, "by": 1}, chosen=("ax", "ay")),
    *answers_of(1, {"ax": 4, "bx": 2, "ay": 4, "by": 3}, chosen=("ax", "by")),
]
CARELESS = answers_of(2, {"ax": 1, "bx": 5, "ay": 1, "by": 5}, check=5, chosen=("bx", "by"))


def mean(analysis: Analysis, group: str, system: str, question: str) -> float | None:
    (score,) = [s for s in analysis.scores if (s.group, s.system, s.question) == (group, system, question)]
    return score.mean.value


def share(analysis: Analysis, group: str, system: str) -> float | None:
    (found,) = [s for s in analysis.shares if (s.group, s.system) == (group, system)]
    return found.share.value


class TestByHand:
    def test_means(self) -> None:
        found = analyse(make_study(), GOOD)
        assert mean(found, "all", "a", "sync") == (5 + 4 + 4 + 4) / 4
        assert mean(found, "all", "b", "sync") == (2 + 1 + 2 + 3) / 4
        assert mean(found, "Dubbed", "a", "sync") == 4.5
        assert mean(found, "TTS", "b", "sync") == 2
        assert mean(found, "all", "a", "visual") == 3 and mean(found, "all", "a", "overall") == 4

    def test_distribution_and_counts(self) -> None:
        (score,) = [
            s
            for s in analyse(make_study(), GOOD).scores
            if (s.group, s.system, s.question) == ("all", "b", "sync")
        ]
        assert score.distribution == (1, 2, 1, 0, 0)
        assert (score.num_ratings, score.num_raters, score.num_items) == (4, 2, 2)

    def test_shares(self) -> None:
        found = analyse(make_study(), GOOD)
        assert (share(found, "all", "a"), share(found, "all", "b")) == (0.75, 0.25)
        assert (share(found, "Dubbed", "a"), share(found, "TTS", "a")) == (1, 0.5)

    def test_differences(self) -> None:
        found = analyse(make_study(), GOOD)
        (difference,) = [d for d in found.differences if (d.group, d.question) == ("all", "sync")]
        assert (difference.first, difference.second) == ("a", "b")
        assert difference.difference.value == 4.25 - 2
        # In each draw a's mean is 4 to 5 and b's 1 to 3.
        assert difference.difference.low is not None and 1 <= difference.difference.low < 2.25
        assert difference.difference.high is not None and 2.25 < difference.difference.high <= 4

    def test_interval_of_two_raters_and_two_items(self) -> None:
        """Both raters and both items drawn anew: one rater and one item alone has a chance of 1/16, more than 2.5 %."""
        found = analyse(make_study(), GOOD, num_draws=4000)
        (score,) = [s for s in found.scores if (s.group, s.system, s.question) == ("all", "b", "sync")]
        assert (score.mean.low, score.mean.high) == (1, 3)

    def test_alpha(self) -> None:
        """Sync: pairs 5-4, 2-2, 4-4, 1-3 of the values 5 4 2 2 4 4 1 3.

        Squares within pairs, both ways: 2 (1 + 0 + 0 + 4) = 10. Over all 56 ordered pairs of values:
        2 · (8 · 91 - 25²) = 206. Alpha = 1 - (8 - 1) · 10 / 206.
        """
        (sync,) = [a for a in analyse(make_study(), GOOD).agreement if a.question == "sync"]
        assert sync.alpha["interval"] == pytest.approx(1 - 7 * 10 / 206)
        assert (sync.num_raters, sync.num_units) == (2, 4)

    def test_all_the_same_has_no_alpha(self) -> None:
        (visual,) = [a for a in analyse(make_study(), GOOD).agreement if a.question == "visual"]
        assert visual.alpha == {"ordinal": None, "interval": None}

    def test_alpha_of_preference(self) -> None:
        """x: a a; y: a b. One of two pairs differs, 2 ordered; 3 a's and a b: 6 of 12 differ. 1 - 3 · 2 / 6."""
        (preference,) = [a for a in analyse(make_study(), GOOD).agreement if a.question == "preference"]
        assert preference.alpha == {"nominal": pytest.approx(0)}


class TestWhoCounts:
    def test_who_fails_a_check_is_left_out(self) -> None:
        found = analyse(make_study(), GOOD + CARELESS)
        assert found.kept == [0, 1]
        assert found.raters[2].left_out == "failed 1 of 1 attention checks"
        assert found.scores == analyse(make_study(), GOOD).scores
        assert found.shares == analyse(make_study(), GOOD).shares
        assert any("1 of 3 raters were left out: rater 3 failed" in warning for warning in found.warnings)

    def test_unless_that_many_failures_are_allowed(self) -> None:
        found = analyse(make_study(), GOOD + CARELESS, most_failed_checks=1)
        assert found.kept == [0, 1, 2]
        assert mean(found, "all", "a", "sync") == (17 + 2) / 6
        assert share(found, "all", "a") == 3 / 6

    def test_the_check_itself_is_no_rating(self) -> None:
        found = analyse(make_study(), GOOD)
        assert len(found.ratings) == 2 * 4 * 3

    @pytest.mark.parametrize(("score", "is_kept"), [(1, True), (2, True), (3, False), (5, False)])
    def test_scores_that_pass(self, score: int, is_kept: bool) -> None:
        found = analyse(make_study(), answers_of(0, {"ax": 1}, check=score))
        assert (found.kept == [0]) is is_kept

    def test_a_check_that_was_not_reached_is_not_failed(self) -> None:
        found = analyse(make_study(), GOOD[:2])
        assert found.kept == [0] and found.raters[0].num_checks == 0
        assert mean(found, "all", "a", "sync") == 5
        assert any("have not come to the end" in warning for warning in found.warnings)

    def test_complete_only(self) -> None:
        found = analyse(make_study(), GOOD[:2] + GOOD[7:], complete_only=True)
        assert found.kept == [1] and found.raters[0].left_out == "answered 2 of 7 pages"

    def test_pages_that_did_not_play(self) -> None:
        without = [replace(GOOD[0], answers=()), *GOOD[1:]]
        found = analyse(make_study(), without)
        assert mean(found, "all", "a", "sync") == 4
        assert found.raters[0].num_not_played == 1 and found.raters[0].num_answered == 7
        assert any("a video did not play" in warning for warning in found.warnings)

    def test_nobody_counts(self) -> None:
        found = analyse(make_study(), CARELESS)
        assert found.kept == [] and found.scores == () and found.shares == ()

    def test_seconds(self) -> None:
        assert analyse(make_study(), GOOD).raters[0].seconds == 4 * 10 + 5 + 2 * 7.5


def test_the_same_seed_the_same_intervals() -> None:
    first, second, other = (analyse(make_study(), GOOD, num_draws=30, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert [score.mean for score in first.scores] != [score.mean for score in other.scores]
