"""Who is held out where nobody said it: whole speakers, by a seed."""

import hashlib
from collections.abc import Collection, Iterable

from lipsmith.data.clips import ClipRecord
from lipsmith.errors import DataError

_TOO_MUCH = 4  # who speaks more than one part in so many of the footage is wanted for training


def hold_out_speakers(
    records: Iterable[ClipRecord], *, share: float = 0.1, seed: int = 0, never: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Speakers for validation and for test: `share` of all, at least one each (one for validation of two speakers).

    Speakers are ranked by a hash of `seed` and their name, so that footage of more people moves at most a few.

    Args:
        records: The clips that are used.
        share: Of the speakers, for each of both.
        seed: Another one, other speakers.
        never: Names that stand for many people; they stay in training.

    Raises:
        DataError: Fewer than two speakers.
    """
    frames: dict[str, int] = {}
    for record in records:
        frames[record.speaker] = frames.get(record.speaker, 0) + record.num_frames
    speakers = [speaker for speaker in frames if speaker not in never]
    if len(frames) < 2 or not speakers:
        raise DataError(
            f"Nobody can be held out for validation: the footage names {len(frames)} speaker(s). Prepare footage of at "
            "least two people, with --manifest to tell them apart."
        )

    def rank(speaker: str) -> tuple[bool, str]:
        talkative = frames[speaker] * _TOO_MUCH > sum(frames.values())
        return talkative, hashlib.sha256(f"{seed} {speaker}".encode()).hexdigest()

    speakers.sort(key=rank)
    count = max(1, round(share * len(speakers)))
    spare = len(frames) - 1  # somebody must be left to learn from
    validation = speakers[: min(count, spare)]
    test = speakers[len(validation) : len(validation) + min(count, spare - len(validation))]
    return tuple(sorted(validation)), tuple(sorted(test))
