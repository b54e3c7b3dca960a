"""The table of runtimes and the splitting of batches."""

import numpy as np
import pytest

from lipsmith.runtime.base import check_inputs, split_rows


@pytest.mark.parametrize(
    ("num_rows", "batch", "expected"),
    [
        (0, 4, []),
        (3, 4, [(0, 3)]),
        (4, 4, [(0, 4)]),
        (9, 4, [(0, 4), (4, 8), (8, 9)]),
    ],
)
def test_split_rows_covers_all_in_order(num_rows: int, batch: int, expected: list[tuple[int, int]]) -> None:
    assert [(rows.start, rows.stop) for rows in split_rows(num_rows, batch)] == expected


def test_inputs_of_another_face_size_are_told_apart() -> None:
    mels, faces = np.zeros((1, 1, 80, 16), np.float32), np.zeros((1, 6, 96, 96), np.float32)
    check_inputs(mels, faces, 96)
    with pytest.raises(ValueError, match=r"\(1, 6, 96, 96\); it must be \(n, 6, 192, 192\)"):
        check_inputs(mels, faces, 192)
