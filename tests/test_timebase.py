"""What an expert's window hears."""

from fractions import Fraction

import pytest

from lipsmith.timebase import WINDOW_SECONDS, expert_lead


@pytest.mark.parametrize(("frames", "lead"), [(1, "2/25"), (3, "1/25"), (5, "0")])
def test_the_sound_begins_so_much_before_the_first_frame(frames: int, lead: str) -> None:
    assert expert_lead(frames) == Fraction(lead)
    middle_of_frames, middle_of_sound = Fraction(frames, 25) / 2, WINDOW_SECONDS / 2 - expert_lead(frames)
    assert middle_of_sound == middle_of_frames
