import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import av
import pytest

from lipsmith.errors import InputError, OutputError, UsageError
from lipsmith.media.probe import probe
from lipsmith.media.read import read_samples
from lipsmith.study.build import BuildOptions, build_study, find_items, plays_everywhere
from lipsmith.study.folder import SCALES, read_links, read_study

from ..media_samples import beep_times, make_clip
from .conftest import ITEMS, SYSTEMS, Built

ONE = BuildOptions(num_raters=1, num_checks=0)


def folder_of(path: Path, *names: str, **clip: object) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        make_clip(path / name, **{"num_frames": 5, "sound_seconds": 0.2, **clip})  # type: ignore[arg-type]
    return path


class TestWhatIsBuilt:
    def test_every_version_as_it_was(self, built: Built, videos: dict[str, Path]) -> None:
        clips = [clip for clip in built.study.clips if clip.made == "copied"]
        assert sorted((clip.item, clip.system) for clip in clips) == sorted(
            (item, system) for item in ITEMS for system in SYSTEMS
        )
        for clip in clips:
            source = videos[clip.system] / f"{clip.item}.mp4"
            assert (built.folder / "videos" / clip.file).read_bytes() == source.read_bytes()
            assert clip.seconds == pytest.approx(0.6, abs=0.05)

    def test_groups_are_the_folders(self, built: Built) -> None:
        assert built.study.group == {"Dubbed/one": "Dubbed", "Random/two": "Random"}

    def test_names_tell_nothing(self, built: Built) -> None:
        for path in (built.folder / "videos").iterdir():
            assert len(path.stem) == 16 and int(path.stem, 16) >= 0
        assert not any(
            system in page.clips for pages in built.study.raters for page in pages for system in SYSTEMS
        )

    def test_anchors_are_rated_and_not_compared(self, built: Built) -> None:
        for pages in built.study.raters:
            rated = {built.study.clip[page.clips[0]].system for page in pages if page.kind == "rating"}
            assert rated == set(SYSTEMS)
            for page in pages:
                if page.kind == "preference":
                    assert {built.study.clip[clip].system for clip in page.clips} == {"alpha", "beta"}

    def test_checks(self, built: Built) -> None:
        shifted, instruction = built.study.checks
        assert (shifted.kind, shifted.accepted) == ("shifted", {"sync": (1, 2)})
        assert built.study.clip[shifted.clip].system == "genuine"
        assert instruction.kind == "instruction"
        assert set(instruction.accepted) == set(SCALES)
        assert len({instruction.accepted[question] for question in SCALES}) == 1

    def test_the_seed_makes_the_plan(self, built: Built, videos: dict[str, Path], tmp_path: Path) -> None:
        options = BuildOptions(num_raters=2, seed=5, anchors=("genuine",))
        again = build_study(videos, tmp_path / "again", options).study

        def pages(study: object) -> list[tuple[object, ...]]:
            assert hasattr(study, "raters")
            return [
                (page.kind, page.item, [study.clip[clip].system for clip in page.clips])  # type: ignore[attr-defined]
                for pages in study.raters
                for page in pages
            ]

        assert pages(again) == pages(built.study)
        assert {clip.id for clip in again.clips}.isdisjoint(clip.id for clip in built.study.clips)

    def test_reads_back_and_links_are_apart(self, built: Built) -> None:
        study = read_study(built.folder)
        text = (built.folder / "study.json").read_text()
        assert study.digest in text
        assert not any(token in text for token in built.tokens)
        assert len(set(built.tokens)) == 2 and all(len(token) == 16 for token in built.tokens)


class TestEncoding:
    def test_what_browsers_do_not_play_is_encoded(self, tmp_path: Path) -> None:
        source = folder_of(
            tmp_path / "mkv", "clip.mkv", codec="libx265", pixel_format="yuv420p10le", sound_codec="flac"
        )
        assert not plays_everywhere(source / "clip.mkv", probe(source / "clip.mkv"))
        (clip,) = build_study({"one": source}, tmp_path / "study", ONE).study.clips
        made = tmp_path / "study" / "videos" / clip.file
        assert clip.made == "encoded"
        assert plays_everywhere(made, probe(made))
        with av.open(str(made)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5

    def test_encode_all(self, tmp_path: Path) -> None:
        source = folder_of(tmp_path / "one", "clip.mp4")
        build_study({"one": source}, tmp_path / "study", replace(ONE, encode_all=True))
        (clip,) = read_study(tmp_path / "study").clips
        assert clip.made == "encoded"

    def test_shifted_sound_comes_late_and_goes_round(self, tmp_path: Path) -> None:
        """Beeps at 0, 1 and 2 s of three, put half a second later."""
        source = folder_of(tmp_path / "one", "clip.mp4", num_frames=75, sound_seconds=3)
        options = BuildOptions(num_raters=1, num_checks=1, shift_seconds=0.5)
        study = build_study({"one": source}, tmp_path / "study", options).study
        (check,) = study.checks
        assert check.shift_seconds == 0.5
        samples = read_samples(tmp_path / "study" / "videos" / study.clip[check.clip].file)
        assert beep_times(samples) == pytest.approx([0.5, 1.5, 2.5], abs=0.02)

    def test_a_short_clip_is_shifted_by_half(self, built: Built) -> None:
        assert built.study.checks[0].shift_seconds == pytest.approx(0.3, abs=0.05)


class TestItems:
    def test_suffixes_may_differ(self, tmp_path: Path) -> None:
        one, two = folder_of(tmp_path / "one", "a/x.mp4"), folder_of(tmp_path / "two", "a/x.mkv")
        items, left_out = find_items({"one": one, "two": two}, common_only=False)
        assert items == {"a/x": {"one": one / "a/x.mp4", "two": two / "a/x.mkv"}} and not left_out

    def test_a_missing_version(self, tmp_path: Path) -> None:
        one, two = folder_of(tmp_path / "one", "x.mp4", "y.mp4"), folder_of(tmp_path / "two", "x.mp4")
        with pytest.raises(InputError, match=r"1 of 2 items.*y, has none in .*two.*--common"):
            find_items({"one": one, "two": two}, common_only=False)
        items, left_out = find_items({"one": one, "two": two}, common_only=True)
        assert list(items) == ["x"] and left_out == ["y"]

    def test_nothing_in_common(self, tmp_path: Path) -> None:
        folders = {"one": folder_of(tmp_path / "one", "x.mp4"), "two": folder_of(tmp_path / "two", "y.mp4")}
        with pytest.raises(InputError, match="No video is in every folder"):
            find_items(folders, common_only=True)

    def test_twice_the_same_item(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="would be one item"):
            find_items({"one": folder_of(tmp_path, "x.mp4", "x.mkv")}, common_only=False)

    @pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text exist on Linux")
    def test_a_name_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"b\xe4d.mp4")).touch()
        with pytest.raises(InputError, match=r"b�d\.mp4 holds what is no text; rename it"):
            find_items({"a": tmp_path}, common_only=False)

    def test_a_kind_that_is_called_as_all_together(self, tmp_path: Path) -> None:
        (tmp_path / "all").mkdir()
        (tmp_path / "all" / "talk.mp4").touch()
        assert list(find_items({"a": tmp_path}, common_only=False)[0]) == ["all/talk"]
        (tmp_path / "talk.mp4").touch()
        with pytest.raises(InputError, match="all/ would be a kind of video"):
            find_items({"a": tmp_path}, common_only=False)

    def test_no_videos_and_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="There are no videos"):
            find_items({"one": tmp_path}, common_only=False)
        with pytest.raises(InputError, match="There is no folder"):
            find_items({"one": tmp_path / "none"}, common_only=False)


def test_a_file_system_without_modes_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_settings: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    source = folder_of(tmp_path / "one", "x.mp4")
    build_study({"one": source}, tmp_path / "study", ONE)
    assert read_links(tmp_path / "study", read_study(tmp_path / "study"))


class TestRefused:
    def test_a_video_without_sound_leaves_nothing_behind(self, tmp_path: Path) -> None:
        source = folder_of(tmp_path / "one", "x.mp4", sound_seconds=None)
        with pytest.raises(InputError, match="has no sound"):
            build_study({"one": source}, tmp_path / "study", ONE)
        assert [path.name for path in tmp_path.iterdir()] == ["one"]

    def test_the_last_video_s_mistake_is_told_before_the_first_is_made(self, tmp_path: Path) -> None:
        source = folder_of(tmp_path / "one", "a.mp4", "b.mp4")
        folder_of(source, "z.mp4", sound_seconds=None)
        made: list[int] = []
        with pytest.raises(InputError, match=r"z\.mp4 has no sound"):
            build_study(
                {"one": source}, tmp_path / "study", ONE, on_progress=lambda done, _total: made.append(done)
            )
        assert made == []

    def test_an_existing_study_is_kept(self, built: Built, videos: dict[str, Path], tmp_path: Path) -> None:
        shutil.copytree(built.folder, tmp_path / "study")
        with pytest.raises(OutputError, match="may hold answers"):
            build_study(videos, tmp_path / "study", ONE)
        assert json.loads((tmp_path / "study" / "study.json").read_text())["digest"] == built.study.digest

    def test_unknown_anchor_and_no_systems(self, videos: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="gamma is no system"):
            build_study(videos, tmp_path / "study", replace(ONE, anchors=("gamma",)))
        with pytest.raises(UsageError, match="nothing to judge"):
            build_study({}, tmp_path / "study", ONE)

    def test_a_shift_that_is_no_number(self, videos: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="more than 0 seconds"):
            build_study(videos, tmp_path / "study", replace(ONE, shift_seconds=math.nan))


def test_warns_of_what_raters_would_see(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one", "x.mp4", num_frames=5)
    two = folder_of(tmp_path / "two", "x.mp4", num_frames=25, sound_seconds=1, width=128)
    report = build_study({"one": one, "two": two}, tmp_path / "study", ONE)
    assert [
        words
        for words in ("no multiple", "last from 0.2 to 1.0 s", "differ in size")
        if any(words in warning for warning in report.warnings)
    ] == ["no multiple", "last from 0.2 to 1.0 s", "differ in size"]
    alone = build_study({"one": one, "two": two}, tmp_path / "alone", replace(ONE, anchors=("two",)))
    assert any("one has no other system to be compared with" in warning for warning in alone.warnings)
    assert not any("to be compared with" in warning for warning in report.warnings)
