from fractions import Fraction

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose

from lipsmith.errors import UsageError
from lipsmith.faces import track as track_module
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import Detection
from lipsmith.faces.mtcnn import MtcnnDetector
from lipsmith.faces.track import (
    CutWatch,
    FaceTrack,
    FaceTracker,
    face_box,
    primary_box_rows,
    primary_boxes,
    smooth,
)
from lipsmith.geometry import Box
from lipsmith.picture import ArrayPicture

from .portrait import portrait, scene

WIDTH, HEIGHT = 320, 240
RED, GREEN, BLUE = (0, 0, 250), (0, 250, 0), (250, 0, 0)


class PatchDetector:
    """Sees each of three pure colours as one face: exact, without landmarks, and it counts its looks."""

    name = "patches"

    def __init__(self):
        self.looks = 0

    def detect(self, image):
        self.looks += 1
        found = []
        for colour in (RED, GREEN, BLUE):
            rows, columns = np.nonzero((image == colour).all(axis=2))
            if len(rows):
                box = Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                found.append(Detection(box, 0.9))
        return found


def picture(*patches, grey=100):
    """A grey frame with a patch for each (colour, centre x, centre y, width), 1.5 times as high as wide."""
    image = np.full((HEIGHT, WIDTH, 3), grey, np.uint8)
    for colour, x, y, width in patches:
        half_height = int(width * 0.75)
        image[int(y) - half_height : int(y) + half_height, int(x - width / 2) : int(x + width / 2)] = colour
    return image


def follow(frames, detector=None, **options):
    tracker = FaceTracker(detector or PatchDetector(), **options)
    for index, frame in enumerate(frames):
        tracker.add(frame, index)
    return tracker.finish()


def centers(track):
    return (track.boxes[:, :2] + track.boxes[:, 2:]) / 2


class TestStretchOfATrack:
    def test_a_still_face_has_one_box_throughout(self):
        (track,) = follow([picture((RED, 160, 120, 40))] * 23)
        assert (track.id, track.shot, track.first_frame, track.last_frame) == (0, 0, 0, 22)
        assert_allclose(track.boxes, [[140, 90, 180, 150]] * 23, atol=1e-6)
        assert_allclose(track.scores, 0.9)
        assert track.detected[0]
        assert track.detected[-1]
        assert 0 < track.detected.sum() < 23

    @pytest.mark.parametrize(("first", "last"), [(7, 40), (8, 41), (9, 42), (10, 43), (1, 58)])
    def test_it_begins_and_ends_on_the_very_frame(self, first, last):
        face = (RED, 160, 120, 40)
        frames = [picture(face) if first <= index <= last else picture() for index in range(60)]
        (track,) = follow(frames)
        assert (track.first_frame, track.last_frame) == (first, last)
        assert track.box(first - 1) is None
        assert track.box(last + 1) is None
        assert track.box(first) == Box(*track.boxes[0])

    def test_a_short_gap_is_bridged_at_the_place_between(self):
        frames = [picture((RED, 100 + index, 120, 40)) for index in range(50)]
        frames[20:28] = [picture()] * 8
        (track,) = follow(frames)
        assert (track.first_frame, track.last_frame) == (0, 49)
        assert_allclose(centers(track)[20:28, 0], np.arange(120, 128), atol=1)
        assert not track.detected[21:27].any()

    def test_a_long_gap_ends_the_track(self):
        frames = [picture((RED, 160, 120, 40))] * 70
        frames[20:45] = [picture()] * 25
        tracks = follow(frames)
        assert sorted((track.first_frame, track.last_frame) for track in tracks) == [(0, 19), (45, 69)]

    def test_a_moments_error_of_the_detector_is_no_track(self):
        frames = [picture((RED, 160, 120, 60))] * 50
        frames[24:26] = [picture((RED, 160, 120, 60), (GREEN, 40, 40, 34))] * 2
        (track,) = follow(frames)
        assert track.num_frames == 50

    def test_no_frames_or_no_faces_give_no_tracks(self):
        assert follow([]) == []
        assert follow([picture()] * 12) == []

    def test_one_frame_is_enough_for_a_track(self):
        (track,) = follow([picture((RED, 160, 120, 40))])
        assert_allclose(track.boxes, [[140, 90, 180, 150]])

    @pytest.mark.parametrize("rate", [Fraction(8), Fraction(30000, 1001), Fraction(60)])
    def test_the_detector_looks_about_six_times_a_second_at_any_rate(self, rate):
        detector = PatchDetector()
        follow([picture((RED, 160, 120, 40))] * int(rate * 4), detector, rate=rate)
        assert 5 <= detector.looks / 4 <= 8.5


class TestMotion:
    def test_a_steady_motion_is_followed_without_lag(self):
        frames = [picture((RED, 60 + 4 * index, 120, 40)) for index in range(50)]
        (track,) = follow(frames)
        assert_allclose(centers(track)[:, 0], 60 + 4 * np.arange(50), atol=0.5)

    def test_a_head_that_starts_and_stops_is_followed_within_a_tenth_of_its_width(self):
        path = 140 - 60 * np.cos(np.pi * np.clip((np.arange(75) - 30) / 20, 0, 1))  # three widths in 0.8 s
        (track,) = follow([picture((RED, round(x / 2) * 2, 120, 40)) for x in path])
        assert np.abs(centers(track)[:, 0] - path).max() < 4

    def test_a_face_coming_nearer_grows_with_it(self):
        widths = np.linspace(40, 80, 60)
        (track,) = follow([picture((RED, 160, 120, round(w / 2) * 2)) for w in widths])
        assert_allclose(track.boxes[:, 2] - track.boxes[:, 0], widths, atol=2)

    def test_fast_motion_makes_the_detector_look_at_frames_between(self):
        still, moving = PatchDetector(), PatchDetector()
        follow([picture((RED, 160, 120, 40))] * 25, still)
        follow([picture((RED, 60 + 8 * index, 120, 40)) for index in range(25)], moving)
        assert moving.looks > 1.5 * still.looks

    def test_one_wrong_size_does_not_matter(self):
        class OnceTooLarge(PatchDetector):
            def detect(self, image):
                (face,) = super().detect(image)
                box = face.box.padded(0.1, 0.1, 0.1, 0.1) if self.looks == 5 else face.box
                return [Detection(box, face.score)]

        (track,) = follow([picture((RED, 160, 120, 40))] * 50, OnceTooLarge())
        assert_allclose(track.boxes, [[140, 90, 180, 150]] * 50, atol=1e-6)

    def test_shaking_of_the_detector_is_smoothed_away(self):
        rng = np.random.default_rng(4)
        states = np.tile(np.array([160, 120, np.log(100), np.log(140)]), (200, 1))
        states[:, :2] += rng.normal(0, 0.7, (200, 2))
        assert np.abs(np.diff(smooth(states, sigma=5)[:, :2], axis=0)).mean() < 0.1
        assert np.abs(np.diff(states[:, :2], axis=0)).mean() > 0.7

    def test_smoothing_keeps_a_line_to_its_ends(self):
        line = np.arange(40.0)[:, None] * (3, -2, 0.01, 0.01) + (10, 200, 4, 4)
        assert_allclose(smooth(line, sigma=5), line, atol=1e-9)

    def test_smoothing_can_be_turned_off(self):
        states = np.random.default_rng(1).normal(0, 1, (20, 4))
        assert smooth(states, sigma=0) is states

    def test_the_frames_of_a_slide_show_have_boxes(self):
        (track,) = follow([picture((RED, 160, 120, 40))] * 6, rate=Fraction(1, 10))
        assert_allclose(track.boxes, np.tile([140, 90, 180, 150], (6, 1)))


class TestSeveralPeople:
    def test_each_person_is_one_track_and_the_largest_comes_first(self):
        frames = [picture((RED, 70, 120, 30), (GREEN, 170, 120, 60), (BLUE, 270, 120, 40))] * 30
        tracks = follow(frames)
        assert [track.id for track in tracks] == [0, 1, 2]
        assert_allclose([centers(track)[0, 0] for track in tracks], [170, 270, 70])
        assert [track.num_frames for track in tracks] == [30, 30, 30]

    def test_people_who_walk_past_each_other_keep_their_tracks(self):
        frames = [picture((RED, 60 + 4 * i, 60, 40), (GREEN, 260 - 4 * i, 150, 40)) for i in range(50)]
        tracks = follow(frames)
        moves = sorted(round(float(centers(track)[-1, 0] - centers(track)[0, 0])) for track in tracks)
        assert moves == [-196, 196]

    def test_a_face_that_jumps_within_one_frame_is_another_track(self):
        frames = [picture((RED, 80 if index < 20 else 240, 120, 40)) for index in range(40)]
        tracks = follow(frames)
        assert sorted((track.first_frame, track.last_frame) for track in tracks) == [(0, 19), (20, 39)]


class FollowingDetector(PatchDetector):
    """Can look for one patch near a box, and counts that apart from its searches."""

    def __init__(self):
        super().__init__()
        self.looks_again = 0

    def look_again(self, image, near):
        self.looks_again += 1
        searches = self.looks
        found = [face for face in self.detect(image) if face.box.iou(near) > 0.2]
        self.looks = searches
        return max(found, key=lambda face: face.box.iou(near), default=None)


class TestFollowing:
    def test_a_calm_face_is_searched_for_once_in_four_looks(self):
        detector = FollowingDetector()
        (track,) = follow([picture((RED, 100 + index // 2, 120, 40)) for index in range(97)], detector)
        assert (track.first_frame, track.num_frames) == (0, 97)
        assert_allclose(centers(track)[:, 0], 100 + np.arange(97) // 2, atol=0.6)
        assert (detector.looks, detector.looks_again) == (7, 18)  # 25 looks: frames 0, 4, … 96

    @pytest.mark.parametrize("first", [17, 18, 23, 29, 32, 33])
    def test_somebody_who_comes_in_has_a_track_from_the_very_frame(self, first):
        known = (RED, 80, 120, 40)
        frames = [picture(known, *[(GREEN, 230, 120, 50)] * (index >= first)) for index in range(70)]
        tracks = follow(frames, FollowingDetector())
        assert sorted((track.first_frame, track.last_frame) for track in tracks) == [(0, 69), (first, 69)]

    @pytest.mark.parametrize("last", [17, 18, 23, 29, 32])
    def test_somebody_who_leaves_has_a_track_to_the_very_frame(self, last):
        known = (RED, 80, 120, 40)
        frames = [picture(known, *[(GREEN, 230, 120, 50)] * (index <= last)) for index in range(70)]
        tracks = follow(frames, FollowingDetector())
        assert sorted((track.first_frame, track.last_frame) for track in tracks) == [(0, last), (0, 69)]

    def test_what_is_followed_is_what_is_searched(self):
        rng = np.random.default_rng(3)
        x, y = 160 + np.cumsum(rng.integers(-3, 4, 80)), 120 + np.cumsum(rng.integers(-1, 2, 80))
        frames = [picture((RED, x[index], y[index], 40 + index // 8)) for index in range(80)]
        (searched,), (followed,) = follow(frames), follow(frames, FollowingDetector())
        assert_allclose(followed.boxes, searched.boxes, atol=1e-6)

    def test_large_frames_are_searched_more_often_so_that_few_are_kept(self, monkeypatch):
        monkeypatch.setattr(track_module, "KEPT_BYTES", 6 * WIDTH * HEIGHT * 3)
        tracker = FaceTracker(FollowingDetector())
        for _ in range(60):
            tracker.add(picture((RED, 160, 120, 40)))
            assert len(tracker._waiting) <= 8

    def test_mtcnn_follows_a_face_as_it_searches_for_it(self):
        frames = [scene(480, 300, faces=[(150 + 2.0 * index, 150.0, 80 + index / 2)]) for index in range(33)]

        class SearchOnly:
            name = "search only"
            detect = MtcnnDetector().detect

        (searched,), (followed,) = follow(frames, SearchOnly()), follow(frames, MtcnnDetector())
        assert followed.num_frames == searched.num_frames == 33
        assert np.abs(followed.boxes - searched.boxes).max() < 4  # of a face 100 pixels wide


class TestSettled:
    """What is said while frames come is what is said in the end."""

    @staticmethod
    def settle(frames, detector):
        """The answers, all of them as one, the number of frames not answered for at each frame, and the last word."""
        tracker = FaceTracker(detector)
        rows, late = [], []
        for frame in frames:
            tracker.add(frame)
            rows += list(tracker.settled())
            late.append(tracker._next - len(rows))
        final = primary_box_rows(tracker.finish(), len(frames))
        rows += list(tracker.settled())
        return np.array(rows), late, final, tracker

    @pytest.mark.parametrize("detector", [PatchDetector, FollowingDetector])
    def test_a_face_that_moves_grows_leaves_and_comes_back_after_cuts(self, detector):
        rng = np.random.default_rng(8)
        walk = 160 + np.cumsum(rng.integers(-3, 4, 400)) // 2
        frames = [
            picture((RED, walk[i], 120, 40 + 2 * (i // 9 % 6)), grey=60 + 100 * (i // 130 % 2))
            for i in range(400)
        ]
        for gap in (slice(0, 9), slice(50, 58), slice(200, 240), slice(385, 400)):
            frames[gap] = [picture(grey=int(frame[0, 0, 0])) for frame in frames[gap]]
        rows, late, final, tracker = self.settle(frames, detector())
        assert len(rows) == 400
        assert_allclose(rows, final, atol=1e-9)
        assert np.isnan(final[:9]).all()
        assert not np.isnan(final[50:58]).any()
        assert np.isnan(final[200:240]).all()
        calm = slice(60, 190)
        assert max(late[calm]) <= tracker.look_ahead * 25 + 1

    def test_of_two_faces_it_is_the_larger_one(self):
        two = [picture((RED, 80 + index // 4, 120, 40), (GREEN, 230, 120, 50)) for index in range(120)]
        for index in (70, 71):
            two[index] = picture((RED, 80 + index // 4, 120, 40), (GREEN, 230, 120, 50), (BLUE, 30, 30, 36))
        rows, late, final, tracker = self.settle(two, FollowingDetector())
        assert max(late) <= tracker.look_ahead * 25 + 17
        assert_allclose(rows, final, atol=1e-9)
        assert_allclose(final.mean(axis=0), (205, 83, 255, 157), atol=1)

    def test_a_larger_face_that_comes_late_is_not_foreseen(self):
        frames = [
            picture((RED, 80, 120, 40), *[(GREEN, 230, 120, 64)] * (index >= 80)) for index in range(160)
        ]
        rows, _, final, _ = self.settle(frames, FollowingDetector())
        assert len(rows) == len(final) == 160
        assert_allclose(rows[0], (60, 90, 100, 150), atol=1e-6)
        assert np.isnan(final[0]).all()

    def test_what_is_settled_is_not_worked_out_again(self, monkeypatch):
        lengths, boxes = [], FaceTracker._boxes

        def counted(tracker, course, start, stop):
            lengths.append(stop - start)
            return boxes(tracker, course, start, stop)

        monkeypatch.setattr(FaceTracker, "_boxes", counted)
        tracker = FaceTracker(FollowingDetector())
        frame = picture((RED, 80, 120, 40), (GREEN, 230, 120, 50))
        for _ in range(400):
            tracker.add(frame)
            tracker.settled()
        assert max(lengths) <= 2 * tracker.look_ahead * 25

    def test_no_frames_settle_nothing(self):
        tracker = FaceTracker(PatchDetector())
        assert tracker.settled().shape == (0, 4)


class TestCuts:
    @pytest.mark.parametrize("cut", [13, 14, 15, 16, 17])
    def test_a_cut_ends_the_tracks_on_the_frame_before_it(self, cut):
        before, after = picture((RED, 100, 120, 40), grey=50), picture((GREEN, 110, 120, 44), grey=180)
        tracks = sorted(follow([before] * cut + [after] * (40 - cut)), key=lambda track: track.first_frame)
        assert [(track.shot, track.first_frame, track.last_frame) for track in tracks] == [
            (0, 0, cut - 1),
            (1, cut, 39),
        ]
        assert_allclose(tracks[0].boxes[-1], [80, 90, 120, 150])
        assert_allclose(tracks[1].boxes[0], [88, 87, 132, 153])

    def test_a_face_in_its_place_on_both_sides_of_a_cut_is_two_tracks(self):
        face = (RED, 160, 120, 40)
        tracks = follow([picture(face, grey=40)] * 20 + [picture(face, grey=200)] * 20)
        assert sorted(track.shot for track in tracks) == [0, 1]

    def test_a_fade_and_a_moving_face_are_no_cuts(self):
        fade = [picture((RED, 160, 120, 60), grey=20 + 8 * index) for index in range(25)]
        move = [picture((RED, 60 + 8 * index, 120, 60), grey=212) for index in range(25)]
        assert {track.shot for track in follow(fade + move)} == {0}

    @pytest.mark.parametrize("level", [0, 255])
    @pytest.mark.parametrize("num_frames", [1, 6, 12, 40])
    def test_what_fades_in_from_black_or_white_is_another_shot(self, level, num_frames):
        scenes = [picture((RED, 160, 120, 60), grey=90), picture((GREEN, 160, 120, 60), grey=110)]
        shares = np.arange(num_frames + 1) / num_frames
        frames = [
            np.rint(image * share + level * (1 - share)).astype(np.uint8)
            for image, order in zip(scenes, (shares[::-1], shares), strict=True)
            for share in order.tolist()
        ]
        watch = CutWatch()
        cuts = [place for place, frame in enumerate(frames) if watch.is_cut(ArrayPicture(frame))]
        # In the moment when the second scene can first be made out.
        assert 1 <= min(cut for cut in cuts if cut > num_frames) - num_frames - 1 <= 1 + num_frames / 5

    @pytest.mark.parametrize("step", [4, 12])
    def test_a_pan_over_a_busy_background_is_no_cut(self, step):
        blocks = np.random.default_rng(2).integers(0, 2, (HEIGHT // 40, 40, 1), dtype=np.uint8) * 200
        wide = np.kron(blocks, np.ones((40, 40, 3), np.uint8))
        frames = [wide[:, step * index : step * index + WIDTH].copy() for index in range(30)]
        for index, frame in enumerate(frames):
            frame[90:150, 240 - 4 * index : 280 - 4 * index] = RED
        (track,) = follow(frames)
        assert (track.shot, track.num_frames) == (0, 30)

    def test_a_shot_of_three_frames_keeps_its_face(self):
        short = [picture((GREEN, 160, 120, 40), grey=220)] * 3
        long = [picture((RED, 160, 120, 40), grey=30)] * 25
        tracks = follow(long + short + long)
        assert sorted((track.first_frame, track.last_frame) for track in tracks) == [
            (0, 24),
            (25, 27),
            (28, 52),
        ]


def _track(number, shot, first, num_frames, width, x=100.0):
    boxes = np.tile(np.array([[x - width / 2, 50, x + width / 2, 50 + width]]), (num_frames, 1))
    return FaceTrack(number, shot, first, boxes, np.ones(num_frames), np.ones(num_frames, bool))


class TestPrimaryBoxes:
    def test_the_largest_face_of_each_shot_goes_on_after_a_cut(self):
        tracks = [
            _track(0, 0, 0, 10, 80),
            _track(1, 1, 10, 10, 60),
            _track(2, 0, 0, 10, 40, x=250),
            _track(3, 1, 10, 10, 30, x=250),
        ]
        boxes = primary_boxes(tracks, 20)
        assert [box.width for box in boxes] == [80] * 10 + [60] * 10
        assert primary_boxes(tracks, 20, 0) == boxes
        assert [box.width for box in primary_boxes(tracks, 20, 1)] == [40] * 10 + [30] * 10

    def test_frames_without_the_face_are_none(self):
        boxes = primary_boxes([_track(0, 0, 3, 4, 50)], 10)
        assert [box is not None for box in boxes] == [False] * 3 + [True] * 4 + [False] * 3

    def test_rows_are_the_boxes_of_the_track_cut_to_the_video(self):
        track = _track(0, 0, 3, 9, 50)
        rows = primary_box_rows([track], 10)
        assert rows.shape == (10, 4)
        assert np.isnan(rows[:3]).all()
        np.testing.assert_array_equal(rows[3:], track.boxes[:7])

    def test_a_face_that_comes_back_is_the_same_one(self):
        tracks = [_track(0, 0, 0, 30, 80), _track(1, 0, 60, 20, 78, x=130)]
        boxes = primary_boxes(tracks, 80)
        assert [box is not None for box in boxes] == [True] * 30 + [False] * 30 + [True] * 20

    def test_a_bystander_does_not_take_over_when_the_main_face_leaves(self):
        tracks = [_track(0, 0, 0, 30, 80), _track(1, 0, 10, 40, 50, x=200)]
        boxes = primary_boxes(tracks, 50)
        assert [box is not None for box in boxes] == [True] * 30 + [False] * 20

    def test_a_role_that_nobody_has_is_empty(self):
        assert primary_boxes([_track(0, 0, 0, 5, 50)], 5, 3) == [None] * 5
        assert primary_boxes([], 4) == [None] * 4


class TestUse:
    def test_frames_must_come_in_order(self):
        tracker = FaceTracker(PatchDetector())
        tracker.add(picture(), 0)
        with pytest.raises(ValueError, match="frame 1 was expected, not frame 2"):
            tracker.add(picture(), 2)

    def test_a_finished_tracker_takes_no_more_frames_but_repeats_its_answer(self):
        tracker = FaceTracker(PatchDetector())
        tracker.add(picture((RED, 160, 120, 40)))
        assert tracker.finish() == tracker.finish()
        with pytest.raises(ValueError, match="finished"):
            tracker.add(picture())

    def test_a_rate_of_zero_is_refused(self):
        with pytest.raises(UsageError, match="above 0"):
            FaceTracker(PatchDetector(), rate=Fraction(0))

    def test_only_a_moments_frames_are_kept(self):
        tracker = FaceTracker(PatchDetector(), rate=Fraction(25))
        for _ in range(100):
            tracker.add(picture((RED, 160, 120, 40)))
            assert len(tracker._waiting) < 4


class TestFaceBox:
    def test_an_average_face_has_the_mouth_and_eyes_where_the_crop_wants_them(self):
        unit, middle = 40.0, np.array([300.0, 200.0])
        half_eyes = 0.92 * unit / 2
        landmarks = middle + np.array([[-half_eyes, 0], [half_eyes, 0], [0, 20], [-15, unit], [15, unit]])
        crop = CropRule().crop(face_box(Detection(Box(0, 0, 1, 1), 1.0, landmarks)))
        rows = (np.array([200.0, 240.0]) - crop.top) / crop.height * 96
        assert_allclose(rows, [37.3, 67.1], atol=0.5)
        assert (300 - crop.left) / crop.width == pytest.approx(0.5, abs=0.01)

    def test_without_landmarks_it_is_the_detectors_box(self):
        box = Box(1, 2, 30, 40)
        assert face_box(Detection(box, 1.0)) is box

    def test_turning_the_head_by_half_shrinks_the_box_by_less_than_a_fifth(self):
        eyes_apart, unit = 36.8, 40.0
        frontal = np.array([[-1.0, 0], [1, 0], [0, 20], [-15, unit], [15, unit]])
        frontal[:2, 0] *= eyes_apart / 2
        turned = frontal * (0.5, 1)
        boxes = [face_box(Detection(Box(0, 0, 1, 1), 1.0, points)) for points in (frontal, turned)]
        assert 0.8 < boxes[1].height / boxes[0].height < 0.9


class TestPortrait:
    """The whole stage on a real face: MTCNN, tracker and crop."""

    def test_a_moving_growing_blurred_face_keeps_its_mouth_in_the_same_rows_of_the_crop(self):
        # The portrait's mouth is 25 rows below its box's centre when the face is 85 pixels wide.
        x = 150 + 3.0 * np.arange(40)
        widths = np.linspace(70, 100, 40)
        frames = [scene(480, 300, faces=[(x[i], 150.0, widths[i])]) for i in range(40)]
        frames[20:] = [cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames[20:]]
        (track,) = follow(frames, MtcnnDetector())
        assert track.num_frames == 40
        mouth_x = x + (223.7 - 224.5) * widths / 85
        mouth_y = 150 + (140.5 - 117.5) * widths / 85
        rule = CropRule()
        for index in range(40):
            crop = rule.crop(track.box(index))
            assert (mouth_y[index] - crop.top) / crop.height * 96 == pytest.approx(67, abs=3)
            assert (mouth_x[index] - crop.left) / crop.width * 96 == pytest.approx(48, abs=3)

    def test_two_people_side_by_side_through_a_cut(self):
        first = scene(480, 300, faces=[(120.0, 150.0, 90.0), (350.0, 150.0, 64.0)], grey=60)
        second = scene(480, 300, faces=[(130.0, 150.0, 60.0), (340.0, 150.0, 86.0)], grey=190)
        tracks = follow([first] * 9 + [second] * 9, MtcnnDetector())
        assert len(tracks) == 4
        main = primary_boxes(tracks, 18)
        other = primary_boxes(tracks, 18, 1)
        assert_allclose([box.center[0] for box in main], [120] * 9 + [340] * 9, atol=4)
        assert_allclose([box.center[0] for box in other], [350] * 9 + [130] * 9, atol=4)

    @pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(3, 4)])
    def test_pixels_that_are_not_square_change_nothing_that_the_networks_see(self, aspect):
        frames = [scene(480, 300, faces=[(150 + 2.0 * index, 150.0, 90.0)]) for index in range(12)]
        narrow = [
            cv2.resize(frame, (round(480 / aspect), 300), interpolation=cv2.INTER_AREA) for frame in frames
        ]
        (square,), (track,) = (
            follow(shown, MtcnnDetector(), pixel_aspect=pixel_aspect)
            for shown, pixel_aspect in ((frames, Fraction(1)), (narrow, aspect))
        )
        assert track.num_frames == 12
        boxes = track.boxes * (float(aspect), 1, float(aspect), 1)
        assert np.abs(boxes - square.boxes).max() < 4  # of a face 100 pixels wide

    def test_a_portrait_that_goes_black_loses_its_track(self):
        image = portrait()
        frames = [image if index < 20 else np.zeros_like(image) for index in range(40)]
        (track,) = follow(frames, MtcnnDetector())
        assert (track.first_frame, track.last_frame) == (0, 19)


@pytest.mark.parametrize(
    "name", ["grid/grid_s30_bbac3n.mpg", "anchors/ar_09455.mp4", "other/hdtf_rd_radio10_2s.mp4"]
)
def test_a_real_speaker_is_one_track_from_the_first_frame_to_the_last(shared_clips, name):
    av = pytest.importorskip("av")
    with av.open(str(shared_clips / name)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    (track,) = follow(frames, MtcnnDetector())
    assert (track.first_frame, track.num_frames) == (0, len(frames))
    # Steady: the box moves by less than a two-hundredth of its width a frame in these calm clips.
    width = (track.boxes[:, 2] - track.boxes[:, 0]).mean()
    assert np.abs(np.diff(centers(track), axis=0)).mean() < width / 200
