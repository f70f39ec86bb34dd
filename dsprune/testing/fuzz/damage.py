"""Damage files: their bytes, their place in a folder, their values and tensors; and plant pickles that run code."""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsprune.utils.files import sha256_of

__all__ = ["ABSURD", "damage_file", "damage_json", "damage_tensors", "list_again", "plant_pickle"]

ABSURD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3.5, float("nan"), float("inf"), 10**30, -(2**63), 1e308),
    *("", "x", "1", "nan", "../..", "/etc", "a/b", "..", ".", "\x1b[31m", "a\nb", "ü", "x" * 300, "x" * 100_000),
    *([], {}, [None], [[]], {"": None}, {"x": {"x": []}}, [0] * 1000, ["x"], [{}]),
)  # fmt: skip
"""Values that most fields do not expect."""


class _Payload:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def damage_file(path: Path, rng: random.Random) -> str:
    """Damage a file in a random way, and return a description."""
    done = rng.choice((_flip, _flip, _truncate, _cut_out, _append, _zero, _empty, _garbage, *_PLACES))
    done(path, rng)
    return f"{path.name}: {done.__name__.strip('_')}"


def damage_json(path: Path, rng: random.Random) -> str:
    """Change, remove, add or move a value in a JSON file or in a line of a file of JSON lines."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    number = rng.randrange(len(lines))
    values = json.loads(lines[number])
    changed, what = _change(values, rng)
    lines[number] = json.dumps(changed, indent=1 if path.suffix == ".json" else None)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{path.name}, line {number + 1}: {what}"


def damage_tensors(path: Path, rng: random.Random) -> str:
    """Change, remove, add or move a tensor or another value in a file of torch or of safetensors."""
    if path.suffix == ".pt":
        changed, what = _change(torch.load(path, weights_only=False), rng)
        torch.save(changed, path)
        return f"{path.name}: {what}"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    how = rng.choice(_TENSORS)
    if how is not None:
        tensors[name] = how(tensor).contiguous()
    elif rng.random() < 0.5:
        tensors[f"{name}x"] = tensor
    save_file(tensors, path, metadata)
    return f"{path.name}: {name} changed"


def plant_pickle(path: Path, marker: Path) -> str:
    """Replace a file by a pickle that makes the folder `marker` when it is loaded."""
    torch.save({"module": _Payload(marker), "optimizer_state_dict": _Payload(marker)}, path)
    return f"{path.name}: a pickle that runs"


def list_again(path: Path) -> None:
    """Write the checksum of a damaged file into the lists next to it, like an attacker."""
    if not path.is_file():
        return
    for manifest in path.parent.glob("*.json"):
        try:
            values = json.loads(manifest.read_text(encoding="utf-8"))
            files = values["files"]
            is_named = isinstance(files, dict)
            entries = [files[path.name]] if is_named else [e for e in files if e["file"] == path.name]
            if not entries:  # another list, which is not changed
                continue
            for entry in entries:
                entry["sha256"] = sha256_of(path)
                if "size" in entry:
                    entry["size"] = path.stat().st_size
            manifest.write_text(json.dumps(values), encoding="utf-8")
        except (OSError, ValueError, LookupError, TypeError):  # no list, or itself damaged
            continue


# ---- values

_TENSORS: tuple[Callable[[Tensor], Tensor] | None, ...] = (
    None,
    lambda tensor: tensor.flatten()[1:],
    lambda tensor: tensor.reshape(1, -1),
    lambda tensor: tensor.to(torch.float64),
    lambda tensor: tensor.to(torch.int8),
    lambda tensor: torch.zeros_like(tensor),
    lambda tensor: torch.full_like(tensor, -1).abs_().neg_() if tensor.is_floating_point() else tensor + 1,
    lambda tensor: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor,
)
"""Changes to a tensor; None removes or renames it."""


def _change(values: Any, rng: random.Random) -> tuple[Any, str]:
    """Change one place of nested lists and dictionaries, in place where that is possible."""
    places = list(_places(values))
    if not places or rng.random() < 0.03:
        value = rng.choice(ABSURD)
        return value, f"all = {value!r:.40}"
    owner, key, path = rng.choice(places)
    how = rng.randrange(6)
    if how == 0:
        del owner[key]
        return values, f"{path} removed"
    if how == 1 and isinstance(owner, dict):
        owner[f"{key}x"] = owner.pop(key)
        return values, f"{path} renamed"
    if how == 1:
        owner.append(owner[key])
        return values, f"{path} twice"
    value = owner[key]
    change = rng.choice(_TENSORS) if isinstance(value, Tensor) else None
    owner[key] = rng.choice(ABSURD) if change is None else change(value)
    return values, f"{path} = {owner[key]!r:.40}"


def _places(values: Any, path: str = "") -> Sequence[tuple[Any, Any, str]]:
    """Return owner, key and path of every value inside."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(values, dict):
        items = list(values.items())
    elif isinstance(values, list):
        items = list(enumerate(values))
    found = [(values, key, f"{path}.{key}") for key, _ in items]
    return found + [place for key, value in items for place in _places(value, f"{path}.{key}")]


# ---- bytes


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"\0")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) or 1)])


def _cut_out(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    start, stop = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    path.write_bytes(content[:start] + content[stop:])


def _append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 200)))


def _zero(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content) or 1)
    path.write_bytes(content[:start] + bytes(len(content) - start))


def _empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(rng.choice((1, 8, 100, 5000))))


# ---- places


def _remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link_to_itself(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _link_to_nothing(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _swap(path: Path, rng: random.Random) -> None:
    """Exchange a file with another one next to it."""
    others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path]
    if others:
        other = rng.choice(others)
        content = other.read_bytes()
        shutil.copyfile(path, other)
        path.write_bytes(content)


def _pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


_PLACES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(_remove, _folder, _link_to_itself, _link_to_nothing, _swap, _pipe),
)
