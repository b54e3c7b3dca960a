"""The page says what the result says, asks nothing of a network, and shows faces of the worst clips."""

import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsmith.evaluation.comparison import Comparison, SystemScores
from lipsmith.evaluation.file_score import TrackScore
from lipsmith.evaluation.report import (
    method_order,
    number,
    paper_method,
    paper_warnings,
    report_page,
    table_rows,
    worst_scores,
    write_report,
)

from .test_comparison import COMPARISON, ITEMS, SCORER, A, B, row
from .test_file_score import FACE, FixedDetector, levels_of, sound_of, write_clip


class Page(HTMLParser):
    """Text, tables (rows of cells) and addresses of a page; complains of a tag that is not closed."""

    _VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in self._VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words.append(data)
        if "td" in self._open or "th" in self._open:
            cell = self.tables[-1][-1]
            cell[-1] = " ".join((cell[-1] + " " + data).split())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def named(comparison: Comparison, *names: str) -> Comparison:
    systems = zip(comparison.systems, names, strict=True)
    renamed = tuple(dataclasses.replace(system, name=name) for system, name in systems)
    return dataclasses.replace(comparison, systems=renamed)


LIST = {"list": "mine", "list_digest": "d" * 64, "features": None}


class TestPage:
    def test_needs_no_network(self) -> None:
        page = Page(report_page(COMPARISON, num_worst=0))
        assert len(page.addresses) == 3  # the charts
        assert all(address.startswith("data:image/") for address in page.addresses)
        for address in page.addresses:
            svg = base64.b64decode(address.partition(",")[2]).decode()
            # Names of namespaces and of the vocabulary are no addresses that anything is fetched from.
            assert not re.findall(r"(?:href|src)=\"https?:", svg) and "url(http" not in svg

    def test_numbers_of_the_systems_and_their_differences(self) -> None:
        systems, differences, failures, everything = Page(report_page(COMPARISON, num_worst=0)).tables
        assert systems[1][0] == "a" and systems[1][1].startswith("7.750 ") and systems[1][-1] == "4 of 6"
        assert systems[2][1].startswith("9.000 ") and systems[2][3].startswith("+1.50 ")
        assert differences[1][:2] == ["b − a", "+1.000 −1.000 to +3.000"]
        assert differences[1][5:] == ["3", "1", "1", "1", "1 of 3"]
        assert [line[:3] for line in failures[1:]] == [
            ["a", "y", "no face"],
            ["a", "z", "missing"],
            ["b", "x", "no sound"],
            ["b", "z", "no face"],
        ]
        assert failures[1][3] == "y.mp4: no face."
        assert len(everything) == 1 + 2 * len(ITEMS)
        assert everything[3][:5] == ["a", "w", "10.000", "2.000", "−1"]

    def test_says_what_made_it(self) -> None:
        text = Page(report_page(COMPARISON, num_worst=0)).text
        for words in ("lipsmith evaluate compare a b", "0" * 64, "lipsmith 0.1.0", "min_track_frames 25"):
            assert words in text

    def test_picture_quality_where_it_was_measured(self) -> None:
        better = dataclasses.replace(A, quality={"ssim_lower": 0.625})
        tables = Page(report_page(dataclasses.replace(COMPARISON, systems=(better, B)), num_worst=0)).tables
        assert tables[2] == [["System", "ssim lower"], ["a", "0.625"], ["b", "—"]]

    def test_one_system_without_a_paper_is_plain(self) -> None:
        scores = Comparison(ITEMS, (A,), SCORER)
        page = Page(report_page(scores, num_worst=0))
        assert "paper" not in page.text.lower() and "Differences" not in page.text

    def test_nothing_scored_is_a_page_too(self) -> None:
        failed = SystemScores("a", (row("u", None),))
        page = Page(report_page(Comparison(("u",), (failed,), SCORER)))
        assert page.tables[0][1][1:3] == ["—", "—"] and page.addresses == []
        assert "No video of this system has a score." in page.text

    def test_names_are_text_never_markup(self) -> None:
        name = "<script>alert(1)</script>&$x_1$"
        hostile = named(COMPARISON, name, "b")
        hostile = dataclasses.replace(hostile, items=("<img src=x>", *ITEMS[1:]))
        page = Page(report_page(hostile, title="<b>", num_worst=0))  # refuses scripts
        assert page.tables[0][1][0] == name and "<img src=x>" in page.text
        assert len(page.addresses) == 3

    def test_is_the_same_for_the_same_result(self, tmp_path: Path) -> None:
        write_report(COMPARISON, tmp_path / "one.html", num_worst=0)
        write_report(COMPARISON, tmp_path / "deep" / "two.html", num_worst=0)
        assert (tmp_path / "one.html").read_bytes() == (tmp_path / "deep" / "two.html").read_bytes()


class TestPaper:
    def test_table_1_beside_the_measured_rows_in_its_order(self) -> None:
        result = dataclasses.replace(named(COMPARISON, "real", "wav2lip_gan"), facts=LIST)
        groups, head, *rows = Page(report_page(result, num_worst=0)).tables[0]
        assert groups == ["", "measured here", "paper, LRW", "paper, LRS2", "paper, LRS3"]
        assert head[:4] == ["Method", "LSE-D ↓", "LSE-C ↑", "FID ↓"] and len(head) == 7 + 9
        assert [line[0].split(" ")[0] for line in rows] == [
            "Speech2Vid",
            "LipGAN",
            "Wav2Lip",
            "wav2lip_gan",
            "real",
        ]
        assert rows[2][1] == "—" and rows[2][10:13] == ["6.386", "7.789", "4.887"]
        assert rows[3][1].startswith("9.000") and rows[3][10:13] == ["6.469", "7.781", "4.446"]
        assert rows[4][1].startswith("7.750") and rows[4][7:10] == ["7.012", "6.931", "—"]

    @pytest.mark.parametrize(
        ("name", "method"),
        [
            ("wav2lip", "Wav2Lip"),
            ("Wav2Lip + GAN", "Wav2Lip + GAN"),
            ("wav2lip-gan", "Wav2Lip + GAN"),
            ("LIPGAN", "LipGAN"),
            ("real", "Real Videos"),
            ("real_videos", "Real Videos"),
            ("unsynced", None),
            ("my wav2lip", None),
        ],
    )
    def test_methods_by_name(self, name: str, method: str | None) -> None:
        assert paper_method(name) == method

    def test_another_judge_and_other_footage_are_said_loudly(self) -> None:
        by_expert = {**SCORER, "judge": "expert judge", "protocol": "tracked-crop"}
        result = dataclasses.replace(COMPARISON, scorer=by_expert, facts=LIST)
        judge, footage = paper_warnings(result)
        assert "expert judge here, SyncNet v2 in the paper" in judge and "the list mine of 6 pairs" in footage
        page = report_page(result, num_worst=0)
        assert 'class="loud"' in page and "do not compare with the measured ones" in Page(page).text
        (protocol, _) = paper_warnings(
            dataclasses.replace(COMPARISON, scorer={**SCORER, "protocol": "tracked-crop"}, facts=LIST)
        )
        assert "tracked-crop here, whole clips in the paper" in protocol

    def test_the_paper_s_own_list_and_judge_compare(self) -> None:
        items = tuple(map(str, range(14_239)))
        facts = {**LIST, "list": "lrs2_test"}
        assert paper_warnings(Comparison(items, (), SCORER, facts=facts)) == []
        assert len(paper_warnings(Comparison(items[1:], (), SCORER, facts=facts))) == 1

    def test_order_beside_the_paper_s(self) -> None:
        # Here a (7.75) before b (9.0); on LRS2 Wav2Lip 6.386, LipGAN 10.33.
        same = method_order(table_rows(named(COMPARISON, "wav2lip", "lipgan")))
        assert same == {"here": ["wav2lip", "lipgan"], "paper": ["wav2lip", "lipgan"]}
        other = method_order(table_rows(named(COMPARISON, "lipgan", "wav2lip")))
        assert other == {"here": ["lipgan", "wav2lip"], "paper": ["wav2lip", "lipgan"]}
        assert method_order(table_rows(named(COMPARISON, "wav2lip", "mine"))) is None
        text = Page(report_page(named(COMPARISON, "lipgan", "wav2lip"), num_worst=0)).text
        assert "on LRS2: wav2lip, lipgan. The order differs." in text


class TestWorst:
    def test_highest_distance_first_and_no_failures(self) -> None:
        assert [item for item, _ in worst_scores(COMPARISON, A, 3)] == ["w", "v", "x"]
        assert [item for item, _ in worst_scores(COMPARISON, B, 9)] == ["w", "y", "u", "v"]

    def test_strips_are_frames_around_the_face(self, tmp_path: Path) -> None:
        levels = levels_of(60)
        path = write_clip(tmp_path / "u.mp4", levels, sound_of(levels))
        track = TrackScore(0, 60, 80.0, None, 6.0, 8.0, 0, 40)
        score = dataclasses.replace(row("u", 6.0, 8.0), path=path, tracks=(track,), protocol="tracked-crop")
        gone = dataclasses.replace(row("v", 5.0, 8.0), path=tmp_path / "v.mp4")
        result = Comparison(("u", "v"), (SystemScores("a", (score, gone)),), SCORER)
        page = Page(report_page(result, detector=FixedDetector(FACE)))
        (strip,) = [address for address in page.addresses if address.startswith("data:image/jpeg")]
        picture = cv2.imdecode(
            np.frombuffer(base64.b64decode(strip.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR
        )
        cells = picture[18 : 18 + 104].reshape(104, 12, 104, 3)
        # The middle of cell k is the face in frame 18 + 2 k, as bright as its level says.
        found = cells[40:60, :, 40:60].mean(axis=(0, 2, 3))
        assert found == pytest.approx(80 + 30 * levels[18 : 18 + 24 : 2], abs=4)
        assert "from 0.72 s on" in page.text and "v.mp4 is not there any more." in page.text

    def test_relative_paths_are_found_beside_the_result(self, tmp_path: Path) -> None:
        levels = levels_of(30)
        write_clip(tmp_path / "u.mp4", levels, sound_of(levels))
        score = dataclasses.replace(row("u", 6.0, 8.0), path=Path("u.mp4"))
        result = Comparison(("u",), (SystemScores("a", (score,)),), SCORER)
        assert "data:image/jpeg" in report_page(result, folder=tmp_path, detector=FixedDetector())
        assert "data:image/jpeg" not in report_page(result, detector=FixedDetector())

    def test_a_video_that_cannot_be_read_is_a_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "u.mp4").write_text("no video")
        result = Comparison(("u.mp4",), (SystemScores("a", (row("u", 6.0, 8.0),)),), SCORER)
        assert "No picture: " in report_page(result, folder=tmp_path, detector=FixedDetector())


def test_numbers_in_words() -> None:
    assert [number(None), number(float("nan")), number(-1.5, 1), number(2, 0, True), number(0, 0, True)] == [
        "—",
        "—",
        "−1.5",
        "+2",
        "0",
    ]
