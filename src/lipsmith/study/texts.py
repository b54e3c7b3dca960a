"""Every word that a rater reads, in English, and how a study says it in another language."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lipsmith.errors import InputError

# The places that a text may name in braces; a field without an entry here may name none.
_PLACES = {
    "intro": {"pages", "minutes"},
    "page": {"number", "total"},
    "check_instruction": {"score"},
    "version": {"number"},
    "choose_version": {"number"},
}


class Scale(BaseModel):
    """A question with answers from 1 to 5: its heading, the question itself, what 1 and what 5 mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    question: str
    lowest: str
    highest: str


class Texts(BaseModel):
    """The words of the pages. Braces name what is filled in, such as the number of pages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: str = Field(default="en", description="BCP 47 tag of the language, for screen readers.")
    direction: str = Field(default="ltr", pattern="^(ltr|rtl)$", description="Of writing.")

    welcome: str = "You are invited to judge short videos of people who speak."
    intro: str = "There are {pages} pages, which take about {minutes} minutes. Please turn your sound on."
    consent: tuple[str, ...] = (
        "Taking part is voluntary. You may stop at any time by closing the page; what you answered until then is kept.",
        "Only your answers, how long each page took you, and the day are stored: no name, no address of your device. "
        "One cookie remembers your place, so that you can close the page and come back later.",
        "Some of the videos were made or changed by a computer.",
    )
    agree: str = "I have read this, I am an adult, and I agree to take part."
    start: str = "Start"
    join: str = "Take part"
    need_link: str = "Please open the personal link that you were given."
    full: str = "All places in this study are taken. Thank you for your interest."
    unknown: str = "This link belongs to no place in this study. Please check that you copied all of it."
    must_agree: str = "Please tick the box if you agree to take part."

    page: str = "Page {number} of {total}"
    sync: Scale = Scale(
        name="Sync accuracy",
        question="How well do the lip movements match the speech?",
        lowest="not at all",
        highest="perfectly",
    )
    visual: Scale = Scale(
        name="Visual quality",
        question="How good does the picture of the face look?",
        lowest="very bad, many flaws",
        highest="very good, no flaws",
    )
    overall: Scale = Scale(
        name="Overall experience",
        question="How good is it to watch and listen to, all in all?",
        lowest="very bad",
        highest="very good",
    )
    preference: str = "Which version would you rather watch?"
    preference_name: str = "Preference"
    video: str = "The video to judge"
    version: str = "Version {number}"
    enlarge: str = "Full screen"
    choose_version: str = "I prefer version {number}"
    check_instruction: str = "To show that you read this, please choose {score} for all three questions."
    watch_first: str = "Play the video to its end, with sound; then you can answer."
    watch_all_first: str = "Play every version to its end, with sound; then you can choose."
    can_answer: str = "Thank you. Please answer now."
    next: str = "Next"
    not_saved: str = "Your answer could not be saved. Check your connection and press the button again."
    answer_all: str = "Please answer every question."
    does_not_play: str = "The video does not play. Go on without it."
    need_script: str = "This page needs JavaScript, to tell when a video was played."
    keys: str = "Keys: space plays and pauses, 1 to 5 answer, Enter goes on."
    thanks: str = "That was all. Your answers are saved. Thank you!"
    thanks_more: str = "You can close this page now."

    @field_validator("*")
    @classmethod
    def _only_known_places(cls, value: object, info: object) -> object:
        name = getattr(info, "field_name", "")
        if isinstance(value, str):
            places = _PLACES.get(name, set())
            try:
                value.format(**dict.fromkeys(places, "1"))
            except (KeyError, IndexError, ValueError) as error:
                allowed = ", ".join(f"{{{place}}}" for place in sorted(places)) or "none"
                raise ValueError(
                    f"names a place in braces that there is not (allowed here: {allowed})"
                ) from error
        return value


def read_texts(path: Path) -> Texts:
    """Texts from a TOML file; what it leaves out stays English.

    Raises:
        InputError: no such file, no TOML, or an unknown text.
    """
    try:
        return Texts.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The texts {path} cannot be read as TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"The texts {path} are refused at {field}: {first['msg']}. "
            f"Texts are {', '.join(Texts.model_fields)}."
        ) from error
