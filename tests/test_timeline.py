import itertools
from dataclasses import dataclass
from fractions import Fraction

import pytest

from lipsmith.timeline import FrameTimes, Step, choose_policy, frames_in_order, picture_steps

F = Fraction
TIMES = [F(0), F(1, 10), F(3, 10), F(4, 10)]  # a variable rate; the last frame is shown for 0.1 s


def steps(duration, policy):
    return list(picture_steps(TIMES, F(1, 10), F(duration), policy))


@pytest.mark.parametrize("policy", ["loop", "bounce", "hold", "cut"])
def test_a_longer_picture_ends_with_the_sound(policy):
    assert steps("0.36", policy) == [Step(0, F(0)), Step(1, F(1, 10)), Step(2, F(3, 10))]
    assert [step.index for step in steps("0.5", policy)] == [0, 1, 2, 3]


def test_loop_starts_again_when_the_last_frame_is_over():
    assert steps("0.9", "loop")[4:] == [Step(0, F("0.5")), Step(1, F("0.6")), Step(2, F("0.8"))]


def test_bounce_goes_back_and_forth_with_the_gaps_of_the_source():
    assert steps("1.6", "bounce")[3:] == [
        Step(3, F("0.4")),
        Step(2, F("0.5")),
        Step(1, F("0.7")),
        Step(0, F("0.8")),
        Step(1, F("0.9")),
        Step(2, F("1.1")),
        Step(3, F("1.2")),
        Step(2, F("1.3")),
        Step(1, F("1.5")),
    ]


def test_hold_repeats_the_last_frame():
    assert steps("0.76", "hold")[3:] == [Step(3, F(n, 10)) for n in (4, 5, 6, 7)]


def test_cut_ends_with_the_picture():
    assert steps("100", "cut")[-1] == Step(3, F("0.4"))


@pytest.mark.parametrize("policy", ["loop", "bounce", "hold"])
def test_a_single_frame_is_repeated(policy):
    still = list(picture_steps([F(0)], F(1, 25), F("0.12"), policy))
    assert still == [Step(0, F(0)), Step(0, F(1, 25)), Step(0, F(2, 25))]


@pytest.mark.parametrize("policy", ["loop", "bounce", "hold"])
@pytest.mark.parametrize("duration", [F(1, 3), F(1), F(1001, 300), F("7.77")])
def test_the_output_lasts_as_long_as_the_sound_within_one_frame(policy, duration):
    rate = F(30000, 1001)
    times = [n / rate for n in range(17)]
    made = list(picture_steps(times, 1 / rate, duration, policy))
    assert len(made) == round(duration * rate)
    gaps = {after.time - before.time for before, after in itertools.pairwise(made)}
    assert gaps == {1 / rate}
    assert abs(made[-1].time + 1 / rate - duration) <= 1 / rate / 2


@pytest.mark.parametrize("policy", ["loop", "bounce", "hold", "cut"])
def test_a_sound_longer_by_a_rounding_error_adds_no_frame(policy):
    assert len(steps("0.5001", policy)) == 4


STALLED = [F(0), F(1, 10), F(6, 10), F(7, 10)]  # the camera stood still for half a second


def test_a_frame_that_stands_still_is_shown_anew():
    made = list(picture_steps(STALLED, F(1, 10), F(1), "loop"))
    assert [step.index for step in made] == [0, 1, 1, 1, 1, 1, 2, 3, 0, 1]
    assert [step.time for step in made] == [F(n, 10) for n in range(10)]
    backwards = list(picture_steps(STALLED, F(1, 10), F("1.6"), "bounce"))
    assert [step.index for step in backwards[8:]] == [2, 2, 2, 2, 2, 1, 0, 1]


@pytest.mark.parametrize("policy", ["loop", "bounce", "hold", "cut"])
def test_a_source_that_stands_still_where_the_sound_ends_is_not_over(policy):
    made = list(picture_steps(TIMES, F(1, 10), F("0.8"), policy, F("0.8")))
    assert [step.index for step in made] == [0, 1, 2, 3, 3, 3, 3]
    assert [step.time for step in made[3:]] == [F(n, 10) for n in (4, 5, 6, 7)]


def test_even_the_shortest_sound_gets_a_frame():
    assert steps("0.01", "loop") == [Step(0, F(0))]


def test_no_frames_give_no_steps():
    assert list(picture_steps([], F(1, 25), F(1), "loop")) == []


@pytest.mark.parametrize(("num_frames", "chosen"), [(80, "bounce"), (81, "loop")])
def test_auto_bounces_while_that_is_affordable(num_frames, chosen):
    assert choose_policy("auto", num_frames, 10, F(1)) == chosen
    assert choose_policy("cut", num_frames, 10, F(1)) == "cut"


@pytest.mark.parametrize("missing", ["-3", "0", "0.2"])
def test_auto_holds_the_last_frame_for_a_moment(missing):
    assert choose_policy("auto", 10, 10, F(missing)) == "hold"


@dataclass(frozen=True)
class _Numbered:
    index: int


class _Source:
    """A source of 20 numbered frames that counts what it decodes and whether it is closed."""

    def __init__(self, num_frames=20):
        self.num_frames = num_frames
        self.num_decoded = self.num_opened = self.num_closed = 0

    def __call__(self):
        self.num_opened += 1
        try:
            for index in range(self.num_frames):
                self.num_decoded += 1
                yield _Numbered(index)
        finally:
            self.num_closed += 1


def _indices(source, order, num_kept):
    wanted = [Step(index, F(position)) for position, index in enumerate(order)]
    return [frame.index for frame, _ in frames_in_order(source, wanted, num_kept)]


BACK_AND_FORTH = [*range(20), *range(18, -1, -1), *range(1, 20)]


@pytest.mark.parametrize("num_kept", [1, 2, 7, 19, 20, 100])
def test_any_order_is_served_whatever_is_kept(num_kept):
    source = _Source()
    assert _indices(source, BACK_AND_FORTH, num_kept) == BACK_AND_FORTH
    assert source.num_opened == source.num_closed


def test_forwards_and_again_decodes_each_frame_once_a_pass():
    source = _Source()
    order = [*range(20), *range(20), *range(5), 4, 4, 4]
    assert _indices(source, order, 1) == order
    assert source.num_decoded == 45


def test_a_short_clip_that_is_kept_whole_is_decoded_once():
    source = _Source()
    _indices(source, BACK_AND_FORTH * 3, 20)
    assert source.num_decoded == 20


def test_leaving_early_closes_the_source():
    source = _Source()
    frames = frames_in_order(source, [Step(n, F(n)) for n in range(20)])
    next(frames)
    frames.close()
    assert source.num_closed == 1


def test_a_source_that_is_shorter_the_second_time_ends_the_frames():
    assert _indices(_Source(3), [0, 1, 2, 3, 4], 1) == [0, 1, 2]


def test_frame_times_are_exact():
    given = [F(0), F(1001, 30000), F(1, 3), F(3600 * 90_000 + 1, 90_000)]
    times = FrameTimes(given)
    times.append(F(7200))
    assert list(times) == [*given, F(7200)]
    assert len(times) == 5
    assert times[-2] == given[-1]
    assert list(times[1:3]) == given[1:3]
    with pytest.raises(IndexError):
        times[5]


def test_frame_times_of_absurd_clocks_are_kept_to_a_picosecond():
    time = F(7 * 3600 * 2**62 + 1, 2**62 - 1)
    assert abs(FrameTimes([time])[0] - time) < F(1, 10**12)
