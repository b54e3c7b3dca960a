"""Recipes, losses and loops."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lipsmith.errors import UsageError

if TYPE_CHECKING:
    from lipsmith.training.run import TrainingReport


def train(
    recipe: Path | str,
    data: Path | str,
    output: Path | str,
    *,
    overrides: Mapping[str, Any] | None = None,
    expert: Path | str | None = None,
    initial: Path | str | None = None,
    resume: bool = False,
    on_progress: "Callable[[int, int, dict[str, float]], None] | None" = None,
) -> "TrainingReport":
    """Train what a recipe describes on prepared clips.

    In each of the processes that `torchrun` started this trains its share of one run, and the report is the same.

    Args:
        recipe: YAML file, see `recipes/` and `lipsmith.training.recipe`.
        data: Folder written by `lipsmith prepare`.
        output: Run folder: `checkpoint.pt`, `best.safetensors`, `log.jsonl`, `recipe.json`.
        overrides: Fields of the recipe that are to have other values: `{"model.frames": 3}`.
        expert: For a generator, the trained expert (name, run folder or weights file); overrides the recipe's.
        initial: For a generator, weights to start from (name, run folder or weights file), as made by an earlier stage.
        resume: Go on with the run in `output`.
        on_progress: Called with (step, steps, latest measures); of several processes, in the main one.

    Raises:
        RecipeError: The recipe is wrong, or needs an expert that was not named.
        UsageError: The recipe trains an expert, and `expert` or `initial` is given.
        DataError: The prepared folder has nothing for the recipe.
        OutputError: `output` already holds a run and `resume` is not set, or another training is writing it.
    """
    from lipsmith.training.distributed import Processes
    from lipsmith.training.expert import train_expert
    from lipsmith.training.generator import train_generator
    from lipsmith.training.recipe import ExpertRecipe, load_recipe

    processes = Processes()
    with ExitStack() as held:
        with processes.together():
            loaded = load_recipe(Path(recipe), overrides)
            if isinstance(loaded, ExpertRecipe) and (expert or initial):
                raise UsageError(
                    f"The recipe {loaded.name!r} trains an expert, which begins with nothing: leave out --expert and "
                    "--initial, which are for generators."
                )
            if processes.is_main:
                held.enter_context(_alone_in_run(Path(output)))
        if isinstance(loaded, ExpertRecipe):
            return train_expert(loaded, Path(data), Path(output), resume=resume, on_progress=on_progress)
        return train_generator(
            loaded,
            Path(data),
            Path(output),
            expert=expert or None,
            initial=initial or None,
            resume=resume,
            on_progress=on_progress,
        )


@contextmanager
def _alone_in_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder, made if need be, against other trainings; nothing is left of one that was not begun."""
    from lipsmith.data.journal import alone_in
    from lipsmith.data.storage import room_for

    is_new = not folder.exists()
    with room_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone_in(folder, "train"):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()
