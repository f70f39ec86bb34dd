"""Link the packages that dsprune requires into another environment: `python scripts/lend_packages.py SITE_PACKAGES`.

They are those of the environment that runs the script, with all that they require. Other packages that are installed
there, such as those of the tests, are not lent, so a missing requirement of dsprune shows.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def required() -> Iterator[Distribution]:
    """Yield dsprune and the installed packages that it requires, directly or not."""
    waiting, seen = [Requirement("dsprune")], set()
    while waiting:
        wanted = waiting.pop()
        key = (wanted.name.lower(), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:  # torch's CUDA libraries, beside a build without them
            continue
        yield found
        for needed in map(Requirement, found.requires or ()):
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)


def paths_of(package: Distribution) -> Iterator[Path]:
    """Yield the top-level files and folders of a package, and its metadata, which an old pip does not list."""
    home = Path(str(package.locate_file("")))
    for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
        yield home / top
    for metadata in home.glob("*-info"):
        if Distribution.at(metadata).name == package.name:
            yield metadata


def main(site: Path) -> None:
    """Link each top-level file and folder of the packages, except dsprune's own."""
    for package in required():
        for path in paths_of(package):
            target = site / path.name
            if path.exists() and not target.exists() and "dsprune" not in path.name:
                target.symlink_to(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
