"""The pages over HTTP, without a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from lipsmith.study.folder import PREFERENCE, SCALES, Page
from lipsmith.study.pages import COOKIE, make_app
from lipsmith.study.storage import Answer, AnswerStore

from .conftest import SYSTEMS, Built


@pytest.fixture
def client(built: Built, store: AnswerStore) -> Iterator[TestClient]:
    with TestClient(
        make_app(built.study, built.folder, built.tokens, store), follow_redirects=False
    ) as client:
        yield client


@pytest.fixture
def open_client(built: Built, store: AnswerStore) -> Iterator[TestClient]:
    app = make_app(built.study, built.folder, built.tokens, store, is_open=True)
    with TestClient(app, follow_redirects=False) as client:
        yield client


def fields_of(page: Page, **changes: str) -> dict[str, str]:
    """A form filled in: everything played, 3 for all questions, the first version."""
    fields = {f"played-{clip}": "0.98" for clip in page.clips} | {"seconds": "12.34"}
    if page.kind == PREFERENCE:
        fields[PREFERENCE] = page.clips[0]
    else:
        fields |= dict.fromkeys(SCALES, "3")
    return fields | changes


def agree(client: TestClient, built: Built, rater: int = 0) -> str:
    """Give consent; the rater's address."""
    address = f"/r/{built.tokens[rater]}"
    assert client.post(f"{address}/consent", data={"agree": "yes"}).status_code == 303
    return address


class TestConsent:
    def test_comes_first_and_must_be_given(
        self, client: TestClient, built: Built, store: AnswerStore
    ) -> None:
        address = f"/r/{built.tokens[0]}"
        page = client.get(address)
        assert page.status_code == 200 and built.study.texts.agree in page.text
        refused = client.post(f"{address}/consent")
        assert refused.status_code == 422 and built.study.texts.must_agree in refused.text
        assert not store.state(0).consented
        agree(client, built)
        assert store.state(0).consented and "Page 1 of 10" in client.get(address).text

    def test_no_answer_without_it(self, client: TestClient, built: Built, store: AnswerStore) -> None:
        form = fields_of(built.study.raters[0][0])
        assert client.post(f"/r/{built.tokens[0]}/pages/0", data=form).status_code == 303
        assert store.read() == []


class TestAnswering:
    def test_from_the_first_page_to_the_last(
        self, client: TestClient, built: Built, store: AnswerStore
    ) -> None:
        address = agree(client, built)
        pages = built.study.raters[0]
        for number, page in enumerate(pages):
            shown = client.get(address).text
            assert f"Page {number + 1} of {len(pages)}" in shown
            assert all(f"{address}/clips/{clip}" in shown for clip in page.clips)
            answer = client.post(f"{address}/pages/{number}", data=fields_of(page))
            assert (answer.status_code, answer.headers["location"]) == (303, address)
            # Committed before the answer to the browser.
            assert len(store.read()) == number + 1
        assert built.study.texts.thanks in client.get(address).text
        saved = store.read()
        assert all(page.seconds == 12.3 for page in saved)
        for page, given in zip(pages, saved, strict=True):
            if page.kind == PREFERENCE:
                assert given.answers == (Answer(PREFERENCE, page.clips[0], None),)
            else:
                assert set(given.answers) == {Answer(question, page.clips[0], 3) for question in SCALES}

    def test_twice_the_same_form(self, client: TestClient, built: Built, store: AnswerStore) -> None:
        address = agree(client, built)
        page = built.study.raters[0][0]
        for score in ("5", "1"):
            answer = client.post(f"{address}/pages/0", data=fields_of(page, sync=score))
            assert (answer.status_code, answer.headers["location"]) == (303, address)
        (saved,) = store.read()
        assert Answer("sync", page.clips[0], 5) in saved.answers

    def test_a_page_cannot_be_skipped(self, client: TestClient, built: Built, store: AnswerStore) -> None:
        address = agree(client, built)
        form = fields_of(built.study.raters[0][3])
        assert client.post(f"{address}/pages/3", data=form).status_code == 303
        assert client.post(f"{address}/pages/99", data=form).status_code == 303
        assert store.read() == []

    @pytest.mark.parametrize(
        "change",
        [{"sync": ""}, {"sync": "0"}, {"sync": "6"}, {"visual": "3.5"}, {"overall": "three"}],
    )
    def test_unanswered_questions(
        self, client: TestClient, built: Built, store: AnswerStore, change: dict[str, str]
    ) -> None:
        address = agree(client, built)
        answer = client.post(f"{address}/pages/0", data=fields_of(built.study.raters[0][0], **change))
        assert answer.status_code == 422 and built.study.texts.answer_all in answer.text
        assert store.read() == []

    def test_preference_for_what_is_not_shown(
        self, built: Built, store: AnswerStore, client: TestClient
    ) -> None:
        address = agree(client, built)
        pages = built.study.raters[0]
        number = next(n for n, page in enumerate(pages) if page.kind == PREFERENCE)
        for earlier in range(number):
            store.save(0, earlier, (), 1)
        elsewhere = pages[number + 1].clips[0]
        form = fields_of(pages[number], preference=elsewhere)
        assert client.post(f"{address}/pages/{number}", data=form).status_code == 422
        assert number not in store.state(0).answered

    @pytest.mark.parametrize("share", ["0", "0.5", "nan", "much", ""])
    def test_a_video_must_have_been_played(
        self, client: TestClient, built: Built, store: AnswerStore, share: str
    ) -> None:
        address = agree(client, built)
        page = built.study.raters[0][0]
        form = fields_of(page, **{f"played-{page.clips[0]}": share})
        answer = client.post(f"{address}/pages/0", data=form)
        assert answer.status_code == 422 and built.study.texts.watch_first in answer.text
        assert store.read() == []

    def test_a_video_that_does_not_play(self, client: TestClient, built: Built, store: AnswerStore) -> None:
        address = agree(client, built)
        assert client.post(f"{address}/pages/0", data={"does-not-play": "yes"}).status_code == 303
        (saved,) = store.read()
        assert saved.answers == () and saved.seconds is None
        assert "Page 2 of" in client.get(address).text

    def test_a_failing_database_is_said_and_nothing_goes_on(
        self, client: TestClient, built: Built, store: AnswerStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address = agree(client, built)

        def fail(*_arguments: object) -> bool:
            raise OperationalError("INSERT", {}, OSError("disk full"))

        monkeypatch.setattr(store, "save", fail)
        answer = client.post(f"{address}/pages/0", data=fields_of(built.study.raters[0][0]))
        assert answer.status_code == 503 and built.study.texts.not_saved in answer.text
        assert "Page 1 of" in client.get(address).text

    def test_instruction(self, client: TestClient, built: Built, store: AnswerStore) -> None:
        address = agree(client, built)
        pages = built.study.raters[0]
        number = next(n for n, page in enumerate(pages) if page.check == 1)
        for earlier in range(number):
            assert "instruction" not in client.get(address).text
            store.save(0, earlier, (), 1)
        (score,) = built.study.checks[1].accepted["sync"]
        assert f"please choose {score} for all" in client.get(address).text


class TestResuming:
    def test_another_browser_goes_on(self, built: Built, store: AnswerStore, client: TestClient) -> None:
        address = agree(client, built)
        client.post(f"{address}/pages/0", data=fields_of(built.study.raters[0][0]))
        with TestClient(make_app(built.study, built.folder, built.tokens, store)) as other:
            assert "Page 2 of 10" in other.get(address).text

    def test_the_cookie_leads_back(self, client: TestClient, built: Built) -> None:
        assert built.study.texts.need_link in client.get("/").text
        address = agree(client, built)
        cookie = client.get(address).headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie
        assert client.get("/").headers["location"] == address

    def test_raters_do_not_mix(self, client: TestClient, built: Built, store: AnswerStore) -> None:
        first, second = agree(client, built, 0), agree(client, built, 1)
        client.post(f"{second}/pages/0", data=fields_of(built.study.raters[1][0]))
        assert "Page 1 of" in client.get(first).text and "Page 2 of" in client.get(second).text
        assert [page.rater for page in store.read()] == [1]

    def test_pages_are_not_kept_by_the_browser(self, client: TestClient, built: Built) -> None:
        assert client.get(agree(client, built)).headers["cache-control"] == "no-store"


class TestRequests:
    def test_more_than_a_form_is_not_read(self, client: TestClient, built: Built, store: AnswerStore) -> None:
        """Anybody may send a request: one without end would fill the memory, or as a file the disk."""
        most = 1 << 20
        head = {"Content-Type": "application/x-www-form-urlencoded"}
        for path in ("/r/nobody/pages/0", f"/r/{built.tokens[0]}/consent"):
            assert client.post(path, content=bytes(most), headers=head).status_code == 413
        big = {"sync": ("a.bin", bytes(most))}
        assert client.post("/r/nobody/pages/0", files=big).status_code == 413
        address = agree(client, built)
        assert client.post(f"{address}/pages/0", data=fields_of(built.study.raters[0][0])).status_code == 303
        assert len(store.read()) == 1


class TestTakingPart:
    def test_a_place_each_until_all_are_taken(self, open_client: TestClient, built: Built) -> None:
        assert built.study.texts.join in open_client.get("/").text
        places = []
        for _ in range(3):
            open_client.cookies.clear()
            answer = open_client.post("/join")
            places.append(answer.headers.get("location"))
        assert places == [f"/r/{built.tokens[0]}", f"/r/{built.tokens[1]}", None]
        assert built.study.texts.full in answer.text

    def test_who_comes_back_keeps_the_place(self, open_client: TestClient, built: Built) -> None:
        first = open_client.post("/join").headers["location"]
        assert COOKIE in open_client.cookies
        assert open_client.post("/join").headers["location"] == first
        assert open_client.get("/").headers["location"] == first

    def test_only_with_a_link_otherwise(self, client: TestClient, store: AnswerStore) -> None:
        assert client.post("/join").status_code == 403
        assert store.joined() == set()


class TestVideos:
    def test_parts_of_a_file(self, client: TestClient, built: Built) -> None:
        clip = built.study.clip[built.study.raters[0][0].clips[0]]
        address = f"/r/{built.tokens[0]}/clips/{clip.id}"
        whole = client.get(address)
        assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.content == (built.folder / "videos" / clip.file).read_bytes()
        part = client.get(address, headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, whole.content[100:200])
        assert part.headers["content-range"] == f"bytes 100-199/{clip.num_bytes}"
        end = client.get(address, headers={"Range": "bytes=-7"})
        assert (end.status_code, end.content) == (206, whole.content[-7:])
        assert client.get(address, headers={"Range": f"bytes={clip.num_bytes}-"}).status_code == 416

    @pytest.mark.parametrize("name", ["none", "..%2Fstudy.json", "..%2F..%2Fstudy.json"])
    def test_nothing_else(self, client: TestClient, built: Built, name: str) -> None:
        assert client.get(f"/r/{built.tokens[0]}/clips/{name}").status_code == 404
        for path in ("/study.json", "/videos/", "/static/../study.json", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 404


class TestPrivacy:
    def test_no_page_names_a_system_or_an_item(
        self, client: TestClient, built: Built, store: AnswerStore
    ) -> None:
        address = agree(client, built)
        for number in range(len(built.study.raters[0])):
            shown = client.get(address).text
            assert not any(name in shown for name in (*SYSTEMS, "Dubbed", "Random", "one.mp4"))
            store.save(0, number, (), 1)

    def test_links_go_nowhere(self, client: TestClient, built: Built) -> None:
        headers = client.get(f"/r/{built.tokens[0]}").headers
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]

    def test_a_wrong_link(self, client: TestClient, built: Built) -> None:
        answer = client.get("/r/none")
        assert answer.status_code == 404 and built.study.texts.unknown in answer.text

    def test_what_is_stored(self, client: TestClient, built: Built, tmp_path: Path) -> None:
        """No network address, no browser, no secret of a link in the database."""
        address = agree(client, built)
        client.post(f"{address}/pages/0", data=fields_of(built.study.raters[0][0]))
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("answers.sqlite3*"))
        assert built.study.digest.encode() in stored
        for secret in (built.tokens[0], "testclient", "python-httpx", "127.0.0.1"):
            assert secret.encode() not in stored


def test_words_are_escaped(built: Built, store: AnswerStore) -> None:
    study = built.study.model_copy(update={"title": "<script>alert(1)</script>"})
    with TestClient(make_app(study, built.folder, built.tokens, store)) as client:
        assert "<script>alert" not in client.get("/").text
