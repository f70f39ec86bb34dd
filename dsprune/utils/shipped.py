"""Files that come with the package: recipes, suites, DeepSpeed configs and batch scripts."""

from pathlib import Path

__all__ = ["shipped_folder", "shipped_names"]


def shipped_folder(kind: str) -> Path:
    """Return the folder of `recipes`, `suites`, `ds_configs` or `slurm`."""
    return Path(__file__).parents[1].joinpath(kind).resolve()  # in a checkout, two of them are links


def shipped_names(kind: str) -> list[str]:
    """Return the sorted names of the files of a kind, without their endings."""
    return sorted(file.stem for file in shipped_folder(kind).iterdir())
