"""The study in a real browser: two raters, one of whom closes it in the middle and comes back."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lipsmith.cli import main
from lipsmith.study.folder import PREFERENCE, SCALES, Page
from lipsmith.study.storage import read_answers

from .conftest import Built
from .served import STOP_SECONDS, served

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE_SECONDS = 60
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="no Chromium with its driver on this machine"),
]

# Scores for sync, picture and all in all, by rater, item and system; then the system that is preferred.
SAID: list[dict[str, dict[str, tuple[int, int, int]]]] = [
    {
        "Dubbed/one": {"alpha": (5, 4, 4), "beta": (2, 3, 2), "genuine": (5, 5, 5)},
        "Random/two": {"alpha": (4, 4, 3), "beta": (1, 2, 2), "genuine": (5, 4, 5)},
    },
    {
        "Dubbed/one": {"alpha": (4, 3, 4), "beta": (3, 3, 3), "genuine": (5, 5, 4)},
        "Random/two": {"alpha": (3, 3, 3), "beta": (2, 2, 1), "genuine": (4, 5, 5)},
    },
]
PREFERRED = [
    {"Dubbed/one": "alpha", "Random/two": "alpha"},
    {"Dubbed/one": "beta", "Random/two": "alpha"},
]
# (5 + 4 + 4 + 3) / 4 and so on.
MEANS = {
    "alpha": {"sync": 4.0, "visual": 3.5, "overall": 3.5},
    "beta": {"sync": 2.0, "visual": 2.5, "overall": 2.0},
    "genuine": {"sync": 4.75, "visual": 4.75, "overall": 4.75},
}
SHARES = {"alpha": 0.75, "beta": 0.25}
# Pairs 5-4 4-3 2-3 1-2 5-5 5-4: squares both ways 10. Values add up to 43, squares to 175: 2 (12 · 175 - 43²) = 502.
ALPHA_OF_SYNC = 1 - 11 * 10 / 502


class Rater:
    """A person at a phone: plays what is on the page and answers as the tables above say."""

    def __init__(self, built: Built, number: int, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        self._built = built
        self._number = number
        self._gone = False
        self.pages = built.study.raters[number]

    def wait(self, for_what: Callable[[Any], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE_SECONDS, 0.05).until(for_what)

    def find(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def open(self, address: str) -> None:
        self.driver.get(address)

    def agree(self) -> None:
        self.driver.find_element(By.NAME, "agree").click()
        self.driver.find_element(By.TAG_NAME, "button").click()
        self.wait_for_page(0)

    def wait_for_page(self, number: int) -> None:
        """Until page `number`, from 0, or after the last one the thanks are shown."""
        name, words = ("done", self._built.study.texts.thanks)
        if number < len(self.pages):
            name, words = "page", f"Page {number + 1} of {len(self.pages)}"
        # In one step: an element that is looked at while the next page comes would be stale.
        script = (
            f"return document.readyState === 'complete' && document.getElementById({name!r})?.textContent"
        )
        self.wait(lambda driver: driver.execute_script(script) == words)

    @property
    def can_answer(self) -> bool:
        return not self.find("questions").get_property("disabled")

    @property
    def videos(self) -> list[WebElement]:
        return list(self.driver.find_elements(By.TAG_NAME, "video"))

    def play_by_key(self) -> None:
        for video in self.videos:
            self.driver.find_element(By.TAG_NAME, "body").send_keys(" ")
            self.wait(lambda _, video=video: video.get_property("ended"))
        self.wait(lambda _: self.can_answer)

    def play(self) -> None:
        for video in self.videos:
            self.driver.execute_script("arguments[0].play()", video)
            self.wait(lambda _, video=video: video.get_property("ended"))
        self.wait(lambda _: self.can_answer)

    def keys_for(self, page: Page) -> list[str]:
        """What the rater types on a page: a digit for each question."""
        study = self._built.study
        if page.kind == PREFERENCE:
            wanted = PREFERRED[self._number][page.item]
            (place,) = [n for n, clip in enumerate(page.clips, 1) if study.clip[clip].system == wanted]
            return [str(place)]
        if page.check is not None:
            accepted = study.checks[page.check].accepted
            return [str(accepted.get(question, (1,))[0]) for question in SCALES]
        return [str(score) for score in SAID[self._number][page.item][study.clip[page.clips[0]].system]]

    def answer_by_key(self, page: Page) -> None:
        for key in self.keys_for(page):
            self.driver.switch_to.active_element.send_keys(key)

    def answer_by_touch(self, page: Page) -> None:
        questions = [PREFERENCE] if page.kind == PREFERENCE else SCALES
        for question, key in zip(questions, self.keys_for(page), strict=True):
            choices = self.driver.find_elements(By.NAME, question)
            choices[int(key) - 1].click()

    def quit(self) -> None:
        if not self._gone:
            self._gone = True
            self.driver.quit()


@pytest.fixture
def sit_down(built: Built, tmp_path: Path) -> Iterator[Callable[[int], Rater]]:
    """Give a rater a browser that nobody used before; all are closed at the end."""
    raters: list[Rater] = []

    def start(number: int) -> Rater:
        raters.append(Rater(built, number, tmp_path / f"profile{len(raters)}"))
        return raters[-1]

    yield start
    for rater in raters:
        rater.quit()


def test_two_raters_one_coming_back(built: Built, sit_down: Callable[[int], Rater], tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(built.folder, study)
    with served(study) as (address, server):
        links = [f"{address}/r/{token}" for token in built.tokens]

        # The first rater uses the keyboard, loses the network once, and closes the browser amid the fourth page.
        first = sit_down(0)
        first.open(links[0])
        first.agree()
        refuses_before_played(first)
        for number, page in enumerate(first.pages[:3]):
            first.play_by_key()
            first.answer_by_key(page)
            if number == 1:
                fails_without_network(first)
            first.driver.switch_to.active_element.send_keys(Keys.ENTER)
            first.wait_for_page(number + 1)
        first.play_by_key()
        first.driver.switch_to.active_element.send_keys("1")
        first.quit()
        assert [page.page for page in read_answers(study, None, built.study.digest)] == [0, 1, 2]

        # The second uses fingers, presses Next twice, and closes the tab, not the browser: the cookie leads back.
        second = sit_down(1)
        second.open(links[1])
        second.agree()
        for number, page in enumerate(second.pages):
            if number == 3:
                old = second.driver.current_window_handle
                second.driver.switch_to.new_window("tab")
                new = second.driver.current_window_handle
                second.driver.switch_to.window(old)
                second.driver.close()
                second.driver.switch_to.window(new)
                second.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
                second.open(address)
                second.wait_for_page(3)
            second.play()
            second.answer_by_touch(page)
            second.driver.execute_script("arguments[0].click(); arguments[0].click()", second.find("next"))
            second.wait_for_page(number + 1)
        assert [entry for entry in second.driver.get_log("browser") if entry["level"] == "SEVERE"] == []

        # Another browser, the same link.
        first = sit_down(0)
        first.open(links[0])
        first.wait_for_page(3)
        for number, page in enumerate(first.pages[3:], 3):
            first.play_by_key()
            first.answer_by_key(page)
            first.driver.switch_to.active_element.send_keys(Keys.ENTER)
            first.wait_for_page(number + 1)
        # Once more: there is nothing left to answer.
        first.open(links[0])
        first.wait_for_page(len(first.pages))

        server.send_signal(signal.SIGINT)
        _, words = server.communicate(timeout=STOP_SECONDS)
        assert server.returncode == 0 and "20 answered pages are saved" in words

    with pytest.raises(SystemExit) as end:
        main(["study", "analyse", str(study)])
    assert not end.value.code
    found = json.loads((study / "analysis" / "analysis.json").read_text())
    assert [rater["left_out"] for rater in found["raters"]] == ["", ""]
    assert [rater["num_answered"] for rater in found["raters"]] == [10, 10]
    means = {
        (score["system"], score["question"]): score["mean"]["value"]
        for score in found["scores"]
        if score["group"] == "all"
    }
    assert means == {(system, q): mean for system, asked in MEANS.items() for q, mean in asked.items()}
    shares = {s["system"]: s["share"]["value"] for s in found["shares"] if s["group"] == "all"}
    assert shares == SHARES
    (sync,) = [agreement for agreement in found["agreement"] if agreement["question"] == "sync"]
    assert sync["alpha"]["interval"] == pytest.approx(ALPHA_OF_SYNC)


def refuses_before_played(rater: Rater) -> None:
    """Neither a click nor a jump to the end of the video opens the questions."""
    (video,) = rater.videos
    assert not rater.can_answer and not rater.find("next").is_enabled()
    rater.wait(lambda _: video.get_property("readyState") >= 1)
    rater.driver.execute_script("arguments[0].currentTime = arguments[0].duration", video)
    rater.wait(lambda _: not video.get_property("seeking"))
    assert not rater.can_answer


def fails_without_network(rater: Rater) -> None:
    """Without a network the page stays, says so, and keeps the answers."""
    driver = rater.driver
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **network})
    chosen = len(driver.find_elements(By.CSS_SELECTOR, "input:checked"))
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    rater.wait(lambda _: "could not be saved" in rater.find("problem").text)
    assert len(driver.find_elements(By.CSS_SELECTOR, "input:checked")) == chosen == 3
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **network})


def test_a_video_that_does_not_play(built: Built, sit_down: Callable[[int], Rater], tmp_path: Path) -> None:
    """The way on without the video appears, and leads to the next page."""
    study = tmp_path / "study"
    shutil.copytree(built.folder, study)
    with served(study) as (address, _):
        rater = sit_down(0)
        rater.open(f"{address}/r/{built.tokens[0]}")
        clip = built.study.clip[rater.pages[0].clips[0]]
        (study / "videos" / clip.file).write_bytes(b"no video")
        rater.agree()
        rater.wait(lambda _: rater.find("does-not-play").is_displayed())
        rater.find("does-not-play").click()
        rater.wait_for_page(1)
    (page,) = read_answers(study, None, built.study.digest)
    assert page.page == 0 and page.answers == ()
