"""`dsprune export --push`: upload a model folder to the hub with huggingface_hub."""

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from rich.console import Console
from rich.filesize import decimal

from dsprune.errors import UserError
from dsprune.utils.console import say
from dsprune.utils.files import find_files
from dsprune.utils.text import first_line, shareable

__all__ = ["check_repository", "upload"]


def check_repository(name: str) -> None:
    """Check the name of a repository on the hub.

    Raises:
        UserError: it is not OWNER/NAME.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push: value {name}: {first_line(error)}: give OWNER/NAME") from error
    if name.count("/") != 1:
        raise UserError(f"--push: value {name}: names no owner: give OWNER/NAME")


def upload(folder: Path, repository: str, console: Console, *, public: bool, dry_run: bool) -> None:
    """Upload a model folder to the hub; without a token, or in a dry run, only print what would be uploaded.

    The arguments are the options of `dsprune export --push`.

    Raises:
        UserError: the hub cannot be reached, or refuses the upload.
    """
    recipe = folder / "recipe.yaml"
    if recipe.is_file() and shareable(text := recipe.read_text(encoding="utf-8")) != text:
        say(
            console,
            "recipe.yaml names folders of this machine: read it before you make the repository public",
        )
    token = huggingface_hub.get_token()
    reason = "" if token else "no token found: log in with `hf auth login`, or set HF_TOKEN, and run it again"
    if dry_run or reason:
        for path in find_files(folder, "*"):
            say(console, f"  {path.relative_to(folder)}  {decimal(path.stat().st_size)}")
        say(console, f"not pushed to {repository}: {'--dry-run' if dry_run else reason}")
        return
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add the model")
    except Exception as error:  # the hub's client and the network raise errors of many types
        way_out = "check its name, your token and the network"
        raise UserError(f"--push: value {repository}: {first_line(error)}: {way_out}") from error
    say(console, f"pushed: {commit.commit_url}")
