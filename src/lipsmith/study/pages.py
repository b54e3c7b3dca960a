"""The pages that raters see: consent, one page at a time, thanks. An ASGI application over a folder and a store.

A rater's address is `/r/SECRET`. It always shows the first page that has no answer yet, so closing the browser,
pressing Back, reloading and sending a form twice all lead to the right place. An answer is committed before the
redirect that shows the next page; the first answer to a page stands.
"""

import logging
import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import FormData, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from lipsmith.study.folder import PREFERENCE, SCALES, SCORES, VIDEOS_FOLDER, Page, Study
from lipsmith.study.storage import Answer, AnswerStore

logger = logging.getLogger(__name__)

COOKIE = "lipsmith_study"
_COOKIE_SECONDS = 90 * 24 * 3600
_HERE = Path(__file__).parent
LEAST_PLAYED = 0.9
"""Share of a video that must have been played; browsers miss a little at both ends."""
_MOST_SECONDS = 24 * 3600.0
_MOST_FORM_BYTES = 1 << 16
_HEADERS = {
    # Nothing from elsewhere, and the secret in the address goes nowhere.
    "Content-Security-Policy": (
        "default-src 'none'; media-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}


@dataclass(frozen=True, slots=True)
class _Rater:
    number: int
    token: str
    pages: tuple[Page, ...]


def make_app(
    study: Study, folder: Path, tokens: list[str], store: AnswerStore, *, is_open: bool = False
) -> FastAPI:
    """The web application of a study.

    Args:
        study: what is asked.
        folder: where its videos are.
        tokens: the secret of each rater's address.
        store: where answers go.
        is_open: whether anybody may take a free place at `/`; otherwise only personal addresses work.
    """
    app = FastAPI(title=study.title, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_WithLimit)
    app.add_middleware(_WithHeaders)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = study.texts
    raters = {
        token: _Rater(number, token, pages)
        for number, (token, pages) in enumerate(zip(tokens, study.raters, strict=True))
    }

    def show(template: str, status: int = 200, **values: object) -> HTMLResponse:
        page = templates.get_template(template).render(title=study.title, t=texts, **values)
        # Never from a cache: Back must show where the rater is now.
        return HTMLResponse(page, status, headers={"Cache-Control": "no-store"})

    def message(words: str, status: int) -> HTMLResponse:
        return show("message.html", status, words=words)

    def find_rater(token: str) -> _Rater:
        rater = raters.get(token)
        if rater is None:
            raise HTTPException(404, texts.unknown)
        return rater

    def remember(response: Response, request: Request, rater: _Rater) -> Response:
        response.set_cookie(
            COOKIE,
            rater.token,
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    def next_page(rater: _Rater) -> int | None:
        answered = store.state(rater.number).answered
        return next((number for number in range(len(rater.pages)) if number not in answered), None)

    def show_page(rater: _Rater, number: int, problem: str = "", status: int = 200) -> HTMLResponse:
        page = rater.pages[number]
        score = None
        if page.check is not None and study.checks[page.check].kind == "instruction":
            score = study.checks[page.check].accepted[SCALES[0]][0]
        return show(
            "preference.html" if page.kind == PREFERENCE else "rating.html",
            status,
            rater=rater,
            number=number,
            total=len(rater.pages),
            clips=[study.clip[clip] for clip in page.clips],
            scales=SCALES,
            scores=SCORES,
            instruction=None if score is None else texts.check_instruction.format(score=score),
            problem=problem,
        )

    @app.exception_handler(StarletteHTTPException)
    async def explain(request: Request, error: StarletteHTTPException) -> Response:
        return message(str(error.detail), error.status_code)

    @app.exception_handler(SQLAlchemyError)
    async def could_not_save(request: Request, error: SQLAlchemyError) -> Response:
        logger.error("The database of the study failed: %s", " ".join(str(error).split()))
        return message(texts.not_saved, 503)

    @app.get("/")
    def welcome(request: Request) -> Response:
        known = raters.get(request.cookies.get(COOKIE, ""))
        if known is not None:
            return _go_on(known)
        if is_open:
            return show("welcome.html")
        return message(texts.need_link, 200)

    @app.post("/join")
    def join(request: Request) -> Response:
        known = raters.get(request.cookies.get(COOKIE, ""))
        if known is None:
            if not is_open:
                return message(texts.need_link, 403)
            number = store.join_any(len(study.raters))
            if number is None:
                return message(texts.full, 200)
            known = raters[tokens[number]]
        return remember(_go_on(known), request, known)

    @app.get("/r/{token}")
    def current(request: Request, token: str) -> Response:
        rater = find_rater(token)
        if not store.state(rater.number).consented:
            return remember(show_consent(rater), request, rater)
        number = next_page(rater)
        if number is None:
            return remember(show("done.html"), request, rater)
        return remember(show_page(rater, number), request, rater)

    def show_consent(rater: _Rater, problem: str = "", status: int = 200) -> HTMLResponse:
        intro = texts.intro.format(pages=len(rater.pages), minutes=study.minutes(rater.pages))
        return show("consent.html", status, rater=rater, intro=intro, problem=problem)

    @app.post("/r/{token}/consent")
    def consent(token: str, agree: Annotated[str, Form()] = "") -> Response:
        rater = find_rater(token)
        if agree != "yes":
            return show_consent(rater, texts.must_agree, 422)
        store.consent(rater.number)
        return _go_on(rater)

    @app.post("/r/{token}/pages/{number:int}")
    def answer(token: str, number: int, form: Annotated[FormData, Depends(_read_form)]) -> Response:
        rater = find_rater(token)
        # A page that was answered before, or whose turn has not come: to where the rater is.
        if not store.state(rater.number).consented or number != next_page(rater):
            return _go_on(rater)
        page = rater.pages[number]
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        if fields.get("does-not-play") == "yes":
            store.save(rater.number, number, (), _seconds(fields))
            return _go_on(rater)
        if not all(_played(fields, clip) >= LEAST_PLAYED for clip in page.clips):
            problem = texts.watch_all_first if page.kind == PREFERENCE else texts.watch_first
            return show_page(rater, number, problem, 422)
        answers = _read_answers(page, fields)
        if answers is None:
            return show_page(rater, number, texts.answer_all, 422)
        store.save(rater.number, number, answers, _seconds(fields))
        return _go_on(rater)

    @app.get("/r/{token}/clips/{name}")
    def clip(token: str, name: str) -> Response:
        rater = find_rater(token)
        if not any(name in page.clips for page in rater.pages):
            raise HTTPException(404, texts.unknown)
        # Answers requests for a part of the file (206), which phones need to play and seek.
        return FileResponse(
            folder / VIDEOS_FOLDER / study.clip[name].file,
            media_type="video/mp4",
            headers={"Cache-Control": "private, max-age=86400"},
        )

    return app


class _WithHeaders:
    """Adds `_HEADERS` to every response. Plain ASGI: a video that the browser stops loading is no error here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                MutableHeaders(scope=event).update(_HEADERS)
            await send(event)

        await self._app(scope, receive, send_with_headers)


class _WithLimit:
    """Reads no more of a request than a form of this study can hold: anybody may send one of any size."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_bytes = 0

        async def receive_some() -> MutableMapping[str, Any]:
            nonlocal num_bytes
            event = await receive()
            num_bytes += len(event.get("body", b""))
            if num_bytes > _MOST_FORM_BYTES:
                raise StarletteHTTPException(413, "This is more than a form of this study can hold.")
            return event

        await self._app(scope, receive_some, send)


async def _read_form(request: Request) -> FormData:
    return await request.form()


def _go_on(rater: _Rater) -> RedirectResponse:
    return RedirectResponse(f"/r/{rater.token}", 303, headers={"Cache-Control": "no-store"})


def _read_answers(page: Page, fields: Mapping[str, str]) -> tuple[Answer, ...] | None:
    """The answers of a form, None where one is missing or is none of the choices."""
    if page.kind == PREFERENCE:
        chosen = fields.get(PREFERENCE)
        return (Answer(PREFERENCE, chosen, None),) if chosen in page.clips else None
    scores = {str(score): score for score in SCORES}
    answers = tuple(
        Answer(question, page.clips[0], scores[fields[question]])
        for question in SCALES
        if fields.get(question) in scores
    )
    return answers if len(answers) == len(SCALES) else None


def _played(fields: Mapping[str, str], clip: str) -> float:
    """The share of a clip that was played, as the page's script counted it."""
    return _number(fields.get(f"played-{clip}")) or 0.0


def _seconds(fields: Mapping[str, str]) -> float | None:
    """How long the page was open, to a tenth of a second; None where the page did not say."""
    seconds = _number(fields.get("seconds"))
    return None if seconds is None else round(min(max(seconds, 0), _MOST_SECONDS), 1)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
