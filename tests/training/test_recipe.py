"""Recipes: what a change from outside does, and how a wrong field is named."""

from pathlib import Path

import pytest

from lipsmith.errors import RecipeError
from lipsmith.training.recipe import ExpertRecipe, GeneratorRecipe, load_recipe, parse_override

EXPERT = "task: expert\nname: e\nsteps: 4\nmodel: {width: 0.5}\ndata: {validation: [ada]}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(EXPERT)
    return path


def test_changes_take_the_place_of_the_files_values(recipe: Path) -> None:
    changes = {"model.frames": 3, "data.validation": ["grace"], "optimiser.learning_rate": 1e-4, "steps": 9}
    loaded = load_recipe(recipe, changes)
    assert isinstance(loaded, ExpertRecipe)
    assert (loaded.model.frames, loaded.model.width, loaded.steps) == (3, 0.5, 9)
    assert (loaded.data.validation, loaded.optimiser.learning_rate) == (["grace"], 1e-4)
    plain = load_recipe(recipe)
    assert isinstance(plain, ExpertRecipe)
    assert (plain.model.frames, plain.steps) == (5, 4)


def test_a_resolved_recipe_is_a_recipe(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, {"model.frames": 1})
    resolved = tmp_path / "recipe.json"
    resolved.write_text(loaded.model_dump_json())
    assert load_recipe(resolved) == loaded


def test_a_run_folder_named_like_installed_weights_stays_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: generator\nname: g\nsteps: 4\nexpert: ./expert\n")
    loaded = load_recipe(path)
    assert isinstance(loaded, GeneratorRecipe)
    assert loaded.expert == "./expert"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.frames": 6}, "with model.frames changed is not a valid recipe: model.frames: "),
        ({"model.frmes": 3}, "model.frmes: Extra inputs are not permitted"),
        ({"steps": "many"}, "recipe: steps: "),
        ({"steps.first": 3}, "'first' cannot be changed"),
    ],
)
def test_a_wrong_change_names_its_field(recipe: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(recipe, changes)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("model.frames=3", "model.frames", 3),
        ("data.uses=[open, research]", "data.uses", ["open", "research"]),
        ("data.crowds={unlabelled: 25}", "data.crowds", {"unlabelled": 25}),
        ("description=a=b", "description", "a=b"),
        ("expert=", "expert", None),
    ],
)
def test_a_change_is_yaml(text: str, field: str, value: object) -> None:
    assert parse_override(text) == (field, value)


@pytest.mark.parametrize("text", ["model.frames", "=3", "model..frames=3"])
def test_what_changes_nothing_is_said_so(text: str) -> None:
    with pytest.raises(RecipeError, match="write FIELD=VALUE"):
        parse_override(text)


def test_a_value_that_is_no_yaml_is_said_so() -> None:
    with pytest.raises(RecipeError, match=r"value of data\.uses is not YAML"):
        parse_override("data.uses=[open")


@pytest.mark.parametrize(("form", "reference"), [("wav2lip-pair", "steady"), ("wav2lip-relight", "pair")])
def test_two_references_go_with_a_generator_that_sees_two(tmp_path: Path, form: str, reference: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"task: generator\nname: r\nsteps: 4\nmodel: {{form: {form}}}\nbatch: {{reference: {reference}}}\n"
    )
    with pytest.raises(RecipeError, match=f"batch.reference: {reference} does not go with model.form {form}"):
        load_recipe(path)
