import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from lipsmith.errors import WeightsError
from lipsmith.weights.card import WeightCard

CARD = WeightCard(
    name="small",
    kind="generator",
    architecture="wav2lip",
    width=0.25,
    face_size=96,
    window_lead_seconds=Fraction(1, 25),
    crop_padding=(0.0, 0.05, -0.1, 1e-7),
    articulation=1.25,
    description='", back\\slashes, a newline\nand a tab\t, a bell \x07, a delete \x7f, ümläute, 日本語.',
    licence="CC-BY-4.0",
    use="any",
    trained_on=("one", 'two "quoted"'),
    source="here",
    recipe="recipes/small.yaml",
    created="2026-01-31",
    files={"generator.safetensors": "ab" * 32, "generator.xml": "cd" * 32},
    scores={"lse_d": 6.5, "clips": 12, "strict": True, "by speaker": {"a.b": 0.25, "c": {"deep": [1, 2.5]}}},
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    CARD.write(tmp_path / "card.toml")
    assert WeightCard.read(tmp_path / "card.toml") == CARD


def test_empty_fields_are_not_written_and_read_back_as_empty(tmp_path: Path) -> None:
    card = WeightCard(name="x", kind="syncnet", architecture="syncnet-v2", width=1.0, face_size=224)
    card.write(tmp_path / "card.toml")
    assert "recipe" not in (tmp_path / "card.toml").read_text()
    assert WeightCard.read(tmp_path / "card.toml") == card


def test_a_source_whose_name_is_no_text(tmp_path: Path) -> None:
    replace(CARD, source=os.fsdecode(b"b\xe4d.pth")).write(tmp_path / "card.toml")
    assert WeightCard.read(tmp_path / "card.toml").source == "b?d.pth"


def test_lead_is_an_exact_fraction_as_string(tmp_path: Path) -> None:
    CARD.write(tmp_path / "card.toml")
    assert 'window_lead_seconds = "1/25"' in (tmp_path / "card.toml").read_text()


def test_the_hash_of_all_files_ignores_their_order_and_notices_a_change() -> None:
    turned = replace(CARD, files=dict(reversed(list(CARD.files.items()))))
    changed = replace(CARD, files={**CARD.files, "generator.xml": "ce" * 32})
    assert CARD.sha256 == turned.sha256 != changed.sha256
    # echo -n | sha256sum, of an empty list
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert replace(CARD, files={}).sha256 == empty


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('kind = "generador"', "kind is 'generador'; it can be generator, expert"),
        ('use = "free"', "use is 'free'"),
        ('reference = "moving"', "reference is 'moving'; it can be frame, steady, pair, still"),
        ('paints = "hair"', "paints is 'hair'; it can be lower half, face"),
        ("colour = 1", "unknown field 'colour'"),
        ('window_lead_seconds = "soon"', "wrong form"),
        ('window_lead_seconds = "1/0"', "wrong form"),
        ("window_lead_seconds = inf", "wrong form"),
        ("face_size = inf", "wrong form"),
        ('window_lead_seconds = "1e999999999"', "wrong form"),
        (f"articulation = {'[' * 10_000}", "not TOML"),
        (f"width = {'1' * 5_000}", "not TOML"),
        ("crop_padding = [0, 0]", "wrong form"),
        ('articulation = "much"', "wrong form"),
        ('files = {"../x" = "ab"}', "not a plain file name"),
        ("files = 3", "wrong form"),
        ("width = ", "not TOML"),
    ],
)
def test_a_wrong_card_is_named_with_its_field(tmp_path: Path, line: str, complaint: str) -> None:
    fields = {
        "name": '"x"',
        "kind": '"generator"',
        "architecture": '"wav2lip"',
        "width": "1",
        "face_size": "96",
    }
    key, _, value = line.partition(" = ")
    path = tmp_path / "card.toml"
    path.write_text("\n".join(f"{name} = {text}" for name, text in {**fields, key: value}.items()))
    with pytest.raises(WeightsError, match=complaint) as caught:
        WeightCard.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_field_and_a_missing_card_are_named(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    with pytest.raises(WeightsError, match="cannot be read"):
        WeightCard.read(path)
    path.write_text('name = "x"')
    with pytest.raises(WeightsError, match="'architecture' is missing"):
        WeightCard.read(path)
