"""What Weights & Biases keeps of an offline run, read back from its file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7  # of the log format of LevelDB, which the file is in
FULL, FIRST, LAST = 1, 2, 4


def read_offline_run(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The config, and the logged rows."""
    config: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for record in _records(path.read_bytes()):
        for item in record.run.config.update if record.HasField("run") else record.config.update:
            config[item.key] = json.loads(item.value_json)
        if record.HasField("history"):
            items = record.history.item
            rows.append(
                {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
    return config, rows


def _records(content: bytes) -> Iterator[Record]:
    assert content[:4] == b":W&B"
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # too short for a header: padding
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        data = content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        parts = data if kind in (FULL, FIRST) else parts + data
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
