from dataclasses import replace

import cv2
import numpy as np
import pytest

from lipsmith.compose.detail import LentDetail, detail_of, detail_side
from lipsmith.compose.masks import lower_face_mask, mouth_mask
from lipsmith.compose.paste import first_compared_row, paste_face, paste_into
from lipsmith.conditioning import first_painted_row, lower_half_start
from lipsmith.geometry import Crop
from lipsmith.models.wav2lip import FACE_SIZES
from lipsmith.picture import ArrayPicture, PlanarPicture, face_in, to_planes

SIZE = 96


def _frame(rows=360, columns=480, seed=0):
    """Smooth shading with fine texture, as skin has."""
    rng = np.random.default_rng(seed)
    shade = cv2.resize(rng.uniform(60, 190, (6, 8, 3)), (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.clip(shade + rng.normal(0, 6, shade.shape), 0, 255).astype(np.uint8)


def _with_mouth(face, level=20):
    face = face.copy()
    cv2.ellipse(face, (48, 68), (16, 8), 0, 0, 360, (level, level, level), -1)
    return face


CROPS = {
    "enlarged": Crop(120, 60, 340, 330, SIZE),
    "own size": Crop(100, 100, 196, 196, SIZE),
    "shrunk": Crop(200, 200, 251, 263, SIZE),
    "over the left and lower edge": Crop(-40, 150, 200, 420, SIZE),
    "over the right and upper edge": Crop(350, -60, 520, 130, SIZE),
    "tiny": Crop(10, 10, 12, 12, SIZE),
}


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS.keys())
def test_a_generator_that_returns_what_it_saw_reproduces_the_frame_exactly(crop):
    frame = _frame()
    shown = crop.extract(frame)
    as_network_output = (shown.astype(np.float32) / 255) * 255
    np.testing.assert_array_equal(paste_face(frame, crop, shown, shown), frame)
    np.testing.assert_array_equal(paste_face(frame, crop, as_network_output, shown), frame)


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS.keys())
def test_nothing_changes_outside_of_the_lower_half_of_the_crop(crop):
    frame = _frame()
    generated = np.random.default_rng(1).uniform(0, 255, (SIZE, SIZE, 3))
    changed = (paste_face(frame, crop, generated) != frame).any(axis=2)
    allowed = np.zeros_like(changed)
    rows, columns = crop.visible(*frame.shape[:2])[0]
    allowed[max(rows.start, crop.top + crop.height // 2) : rows.stop, columns] = True
    assert not (changed & ~allowed).any()
    if crop.height > SIZE // 2:
        assert changed.any()


def test_the_generated_mouth_arrives_and_the_cheeks_keep_their_texture():
    frame, crop = _frame(), CROPS["enlarged"]
    shown = crop.extract(frame)
    # As generators do: no fine texture anywhere, and a new mouth.
    generated = _with_mouth(cv2.GaussianBlur(shown, (0, 0), 1.5))
    result = paste_face(frame, crop, generated, shown)
    inside = result[crop.top : crop.bottom, crop.left : crop.right]
    before = frame[crop.top : crop.bottom, crop.left : crop.right]
    mouth = inside[round(crop.height * 68 / 96), round(crop.width * 48 / 96)]
    assert np.abs(mouth.astype(int) - 20).max() <= 8
    cheek = np.s_[round(crop.height * 0.56) : round(crop.height * 0.85), 15:40]
    detail = [
        patch[cheek].astype(float) - cv2.GaussianBlur(patch[cheek].astype(float), (0, 0), 3)
        for patch in (inside, before)
    ]
    assert np.corrcoef(detail[0].ravel(), detail[1].ravel())[0, 1] > 0.95
    assert detail[0].std() > 0.9 * detail[1].std()


def test_a_generator_that_only_blurs_leaves_what_is_not_the_mouth_as_it_was():
    frame, crop = _frame(), CROPS["enlarged"]
    shown = crop.extract(frame)
    result = paste_face(frame, crop, cv2.GaussianBlur(shown, (0, 0), 2), shown)
    changed = (result != frame).any(axis=2)[crop.top : crop.bottom, crop.left : crop.right]
    mouth = cv2.dilate(mouth_mask(SIZE), np.ones((9, 9))) > 0  # with its fade
    assert not (changed & ~(crop.restore(mouth.astype(np.float32)) > 0.01)).any()


def test_a_generator_that_is_too_dark_everywhere_leaves_no_box():
    frame, crop = _frame(), CROPS["enlarged"]
    shown = crop.extract(frame)
    generated = np.clip(shown.astype(np.float32) * 0.9 - 10, 0, 255)

    def shade_error(match):
        result = paste_face(frame, crop, generated, shown, match=match)
        return np.abs(cv2.blur(result, (15, 15)).astype(int) - cv2.blur(frame, (15, 15))).max()

    assert shade_error(match=False) > 20
    assert shade_error(match=True) <= 5


def test_the_change_fades_to_nothing_towards_the_rim():
    frame = np.full((360, 480, 3), 128, np.uint8)
    crop = CROPS["enlarged"]
    generated = np.full((SIZE, SIZE, 3), 128, np.uint8)
    generated[SIZE // 2 :] = 40
    result = paste_face(frame, crop, generated, match=False)
    steps = np.abs(np.diff(result[:, (crop.left + crop.right) // 2].astype(int), axis=0))
    assert result[round(crop.top + 0.75 * crop.height), 230, 0] == 40
    assert steps.max() <= 10  # a hard edge would be a step of 88


def test_the_frame_itself_stays_as_it_is():
    frame, crop = _frame(), CROPS["enlarged"]
    kept = frame.copy()
    result = paste_face(frame, crop, _with_mouth(crop.extract(frame)))
    np.testing.assert_array_equal(frame, kept)
    assert (result != frame).any()


def test_a_crop_outside_of_the_picture_is_refused():
    with pytest.raises(ValueError, match="outside"):
        paste_face(_frame(), Crop(600, 10, 700, 110, SIZE), np.zeros((SIZE, SIZE, 3)))


def test_a_face_of_another_size_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        paste_face(_frame(), CROPS["enlarged"], np.zeros((128, 128, 3)))


@pytest.mark.parametrize("size", FACE_SIZES)
def test_all_that_a_paste_looks_at_is_painted_at_work(size):
    assert first_painted_row(size) <= first_compared_row(size) < lower_half_start(size)


def test_the_mask_is_what_bounds_the_change():
    frame = np.full((96, 96, 3), 128, np.uint8)
    crop = Crop(0, 0, 96, 96, SIZE)
    result = paste_face(frame, crop, np.zeros((SIZE, SIZE, 3)), match=False)
    changed = (result != frame).any(axis=2)
    assert not (changed & (lower_face_mask(SIZE) == 0)).any()


def _planar(matrix=6):
    """The frame of `_frame` as planes."""
    planes = to_planes(_frame().astype(np.float32), matrix)
    luma, blue, red = (np.rint(plane).astype(np.uint8) for plane in planes.transpose(2, 0, 1))
    blue, red = (cv2.resize(plane, (240, 180), interpolation=cv2.INTER_AREA) for plane in (blue, red))
    return PlanarPicture(luma, blue, red, matrix)


ODD = {
    "odd corners": Crop(121, 61, 340, 331, SIZE),
    "odd corners, over the edge": Crop(-41, 151, 201, 423, SIZE),
}


@pytest.mark.parametrize("crop", [*CROPS.values(), *ODD.values()], ids=[*CROPS, *ODD])
def test_planes_change_where_the_frame_would_and_nowhere_else(crop):
    picture = _planar()
    before = picture.copy()
    shown = face_in(picture, crop)
    assert paste_into(picture, crop, shown, shown) is picture
    result = paste_into(picture, crop, _with_mouth(shown), shown)
    expected = paste_face(picture.bgr(), crop, _with_mouth(shown), shown)
    assert_same_planes(picture, before)
    # A colour sample is shared by four pixels, so that a hard edge is softer in planes.
    assert np.abs(result.bgr().astype(int) - expected).mean() < 0.6
    assert np.abs(cv2.blur(result.bgr(), (5, 5)).astype(int) - cv2.blur(expected, (5, 5))).max() < 12
    top, left = max(crop.top + crop.height // 2, 0), max(crop.left, 0)
    inside = np.s_[top : max(crop.bottom, 0), left : max(crop.right, 0)]
    pairs = np.s_[top // 2 : (crop.bottom + 1) // 2, left // 2 : (crop.right + 1) // 2]
    for name, area in (("luma", inside), ("blue", pairs), ("red", pairs)):
        new, old = getattr(result, name).copy(), getattr(picture, name)
        assert crop.height < SIZE // 2 or (new[area] != old[area]).any()
        new[area] = old[area]
        np.testing.assert_array_equal(new, old)


def assert_same_planes(one, other):
    for name in ("luma", "blue", "red"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_picture_of_bgr_gets_what_the_frame_gets():
    frame, crop = _frame(), CROPS["enlarged"]
    shown = crop.extract(frame)
    result = paste_into(ArrayPicture(frame), crop, _with_mouth(shown), shown)
    np.testing.assert_array_equal(result.bgr(), paste_face(frame, crop, _with_mouth(shown), shown))


def test_what_only_the_reference_has_elsewhere_stays_the_frames_own():
    frame, crop = _frame(), CROPS["own size"]
    shown = crop.extract(frame)
    reference = shown.copy()
    reference[74:90, 14:24] = 0  # something dark beside the jaw, which the reference lays elsewhere
    generated = _with_mouth(reference)
    result = paste_face(frame, crop, generated, shown, [reference], match=False)
    jaw = np.s_[100 + 76 : 100 + 88, 100 + 15 : 100 + 19]
    assert np.abs(result[jaw].astype(int) - frame[jaw]).max() <= 8
    assert np.abs(result[100 + 64 : 100 + 72, 140:156].astype(int) - 20).max() <= 1
    # Nor does it matter which of two references has it.
    result = paste_face(frame, crop, generated, shown, [shown.copy(), reference], match=False)
    assert np.abs(result[jaw].astype(int) - frame[jaw]).max() <= 8
    # Without knowing the reference it counts as the generator's doing.
    assert (frame[jaw].astype(int) - paste_face(frame, crop, generated, shown, match=False)[jaw]).max() > 25


@pytest.mark.parametrize("name", ["enlarged", "own size", "shrunk", "over the left and lower edge"])
def test_a_whole_face_is_pasted_as_it_is_with_soft_edges(name):
    frame, crop = _frame(), CROPS[name]
    generated = np.full((SIZE, SIZE, 3), 30, np.uint8)
    pasted = paste_face(frame, crop, generated, paints="face")
    height, width = frame.shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    # Where in the crop a pixel lies, 0 to 1.
    down, across = (rows - crop.top) / crop.height, (columns - crop.left) / crop.width
    edge = np.minimum(np.minimum(down, 1 - down), np.minimum(across, 1 - across))
    assert (edge > 0.15).any() and (pasted[edge > 0.15] == 30).all()
    assert (pasted[edge < 0] == frame[edge < 0]).all()
    planar = _planar()
    shown = crop.extract(planar.bgr())
    made = paste_into(planar, crop, generated, shown, paints="face").bgr()
    expected = paste_face(planar.bgr(), crop, generated, shown, paints="face")
    assert np.abs(made.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("form", ["array", "planes"])
def test_lent_detail_arrives_where_the_generator_changed_the_light_alone(form):
    crop, picture = CROPS["enlarged"], _planar()
    if form == "array":
        picture = ArrayPicture(picture.bgr())
    before, shown = picture.bgr(), face_in(picture, crop)
    generated = shown + 6 * mouth_mask(SIZE)[..., None]
    sharp = face_in(picture, replace(crop, size=detail_side(crop.width, crop.height, SIZE)))
    lent = LentDetail(shown, detail_of(sharp), np.eye(2, 3, dtype=np.float32))
    # The reference is another array than the frame's own face, as it is where one is kept.
    pasted = [
        paste_into(picture, crop, generated, shown, [shown.copy()], lent=detail).bgr()
        for detail in ((), (lent,))
    ]
    mouth = np.s_[60 + 180 : 60 + 205, 120 + 90 : 120 + 130]

    def texture(image):
        return (image.astype(np.float32) - cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5))[
            mouth
        ].ravel()

    own, without, with_it = (texture(image) for image in (before, *pasted))
    assert without.std() < 0.3 * own.std() and with_it.std() > 0.55 * own.std()  # resampling takes some of it
    assert np.corrcoef(own, without)[0, 1] < 0.4 and np.corrcoef(own, with_it)[0, 1] > 0.8
    assert pasted[1][mouth].mean() - before[mouth].mean() == pytest.approx(6, abs=1)
