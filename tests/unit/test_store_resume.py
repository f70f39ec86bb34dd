"""A killed capture resumes where it stopped, and ends with the same bytes."""

import json
import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from dsprune.distillation.store import begin_store, finish_store, missing_shards, open_store
from dsprune.testing.commands import TIMEOUT
from dsprune.testing.stores import capture, content, head, plan, spec, write_shard

# Each child captures and is killed, without cleaning up, before it opens, renames or removes a file for the n-th
# time. n grows by one from child to child, until one finishes. Prints which files each child left.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from dsprune.testing.stores import capture
from tests.unit.test_store_resume import PLANNED

folder, left, status = Path(sys.argv[1]), 0, None

def watch(event, arguments):
    global left
    if event in ("os.rename", "os.remove") or (event == "open" and ".tmp" in str(arguments[0])):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

for n in range(100):
    child = os.fork()
    if child == 0:
        left = n
        sys.addaudithook(watch)
        capture(folder, PLANNED)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, [path.name for path in folder.iterdir()]]))
    if status == 0:
        break
"""
# Killed inside safetensors' own writing, which Python's audit hooks do not see, by the kernel's limit on file size.
KILLED_IN_WRITING = """
import resource, signal, sys
from pathlib import Path
from dsprune.testing.stores import capture
from tests.unit.test_store_resume import PLANNED

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
capture(Path(sys.argv[1]), PLANNED)
"""
PLANNED = plan(spec("hidden"), shard_bytes=900)


def test_a_complete_store_has_no_missing_shards(tmp_path: Path) -> None:
    before = content(capture(tmp_path, PLANNED))
    begin_store(tmp_path, PLANNED)
    assert missing_shards(tmp_path, PLANNED) == []
    assert content(capture(tmp_path, PLANNED)) == before


@pytest.mark.parametrize("writers", [1, 2, 3])
def test_shards_may_be_written_by_any_number_of_writers_in_any_order(tmp_path: Path, writers: int) -> None:
    expected = content(capture(tmp_path / "one", PLANNED))
    folder = tmp_path / "many"
    begin_store(folder, PLANNED)
    for rank in random.Random(writers).sample(range(writers), writers):
        own = range(rank, PLANNED.num_shards, writers)
        assert {*own} <= {*missing_shards(folder, PLANNED)}
        for number in reversed(own):
            write_shard(folder, PLANNED, number)
    assert missing_shards(folder, PLANNED) == []
    finish_store(folder, PLANNED, {"out0": head("out0")})
    assert content(folder) == expected


def test_killed_at_every_point_and_resumed(tmp_path: Path) -> None:
    """In other processes, so that hash seeds of Python or Rust would change the bytes."""
    expected = content(capture(tmp_path / "whole", PLANNED))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    done = subprocess.run(command, timeout=TIMEOUT, check=True, capture_output=True, text=True)
    *killed, (last, _) = [json.loads(line) for line in done.stdout.splitlines()]
    assert last == 0
    assert {status for status, _ in killed} == {-signal.SIGKILL}
    assert len(killed) > PLANNED.num_shards
    assert not any("store.json" in names for _, names in killed)
    assert any(name.endswith(".tmp") for _, names in killed for name in names)
    whole = [{name for name in names if not name.startswith(".")} for _, names in killed]
    assert all(before <= after for before, after in pairwise(whole))
    assert content(tmp_path / "killed") == expected
    open_store(tmp_path / "killed")


def test_killed_while_a_shard_is_written_and_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_IN_WRITING, str(tmp_path / "killed")]
    assert subprocess.run(command, timeout=TIMEOUT).returncode == -signal.SIGXFSZ
    assert list((tmp_path / "killed").iterdir()) != []
    assert content(capture(tmp_path / "killed", PLANNED)) == content(capture(tmp_path / "whole", PLANNED))
