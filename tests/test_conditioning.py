import numpy as np
import pytest

from lipsmith.conditioning import generator_faces, unveiled, veiled, visibility


def face(darkest: float, size: int = 32) -> np.ndarray:
    """(1, 3, S, S): grey of 0.5, a twentieth of the upper half, an eye, as dark as said."""
    made = np.full((1, 3, size, size), 0.5, np.float32)
    eye = size * size // 2 // 20
    made.reshape(1, 3, -1)[..., :eye] = darkest
    made[..., size // 2 :, :] = 0.4
    return made


def test_a_face_without_a_veil_is_given_as_it_is() -> None:
    shown, reference = face(0.1), face(0.2)
    seen = visibility(shown)
    assert seen.tolist() == [[[[1.0]]]]
    given = generator_faces(shown, reference, seen)
    assert given.shape == (1, 6, 32, 32)
    np.testing.assert_array_equal(given[:, :3, :16], shown[:, :, :16])
    assert not given[:, :3, 16:].any()
    np.testing.assert_array_equal(given[:, 3:], reference)
    assert veiled(reference, seen) is reference


@pytest.mark.parametrize("seen", [0.6, 0.4, 0.2])
def test_a_face_in_a_fade_from_white_is_given_without_it(seen: float) -> None:
    clear, clear_reference = face(0.1), face(0.1) * 0.9
    shown, reference = (seen * faces + 1 - seen for faces in (clear, clear_reference))
    found = visibility(shown)
    assert found.item() == pytest.approx(seen, abs=1e-5)
    given = generator_faces(shown, reference, found)
    np.testing.assert_allclose(given[:, :3, :16], clear[:, :, :16], rtol=0, atol=1e-5)
    assert not given[:, :3, 16:].any()
    np.testing.assert_allclose(given[:, 3:], clear_reference, rtol=0, atol=1e-5)
    # What a generator leaves alone comes back as it was.
    np.testing.assert_allclose(veiled(given[:, 3:], found), reference, rtol=0, atol=1e-5)


def test_a_veil_begins_without_a_step_and_faces_are_looked_at_one_by_one() -> None:
    levels = np.array((0.05, 0.299, 0.301, 0.35, 0.99, 1.0), np.float32)
    faces = np.ones((6, 3, 32, 32), np.float32) * levels[:, None, None, None]
    seen = visibility(faces)[:, 0, 0, 0]
    assert seen[:2].tolist() == [1.0, 1.0]
    assert seen[2] == pytest.approx(0.996, abs=1e-3)
    assert (np.diff(seen[1:]) <= 0).all()
    assert seen[-1] == pytest.approx(0.05)
    assert np.isfinite(unveiled(faces, visibility(faces))).all()
