"""What every test starts from: no network, no compiler that no test uses, and the long files first."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

from tests import debian

if TYPE_CHECKING:
    from dsprune.testing.pool import RankPool

# Read when huggingface_hub is imported, so before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
# DeepSpeed imports an optimizer whose decorator imports torch's whole compiler: a tenth of a rank's start.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
# What a shell or nohup starts in the background ignores Ctrl-C or SIGHUP, and so would all processes of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# How slow a machine is decides nothing.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# On again when the test modules are imported: it takes a fifth of that time.
gc.disable()

LONG = (
    *(
        "cluster/test_requeue.py",
        "cluster/test_pipeline.py",
        "engine/test_kinds.py",
        "system/test_launcher.py",
    ),
    *("engine/test_invariants.py", "engine/test_topologies.py", "system/test_distillation.py"),
    *("cluster/test_hosts.py", "system/test_teacher.py", "system/test_suite.py", "system/test_ways_in.py"),
    *("system/test_train.py", "system/test_faults.py", "engine/test_variants.py", "system/test_cli.py"),
)
"""The longest files, in the order in which processes that share the tests should begin them."""


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs of this machine from all tests but those of a GPU, and interpret Triton's kernels.

    Ranks of a test that share a GPU would wait for one another. Each variable is read at an import, so before any test
    module.
    """
    if config.getoption("markexpr") == "not gpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, so that none of them is the last to end."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """Collect garbage again, but never among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def need() -> Callable[..., None]:
    """`debian.need`: skip a test whose programs are missing and cannot be installed."""
    return debian.need


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Give each test its own environment: what joins ranks in this process sets RANK and others."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def one_rank() -> Iterator["RankPool"]:
    """Yield a process of a test module's own, in which DeepSpeed trains on one rank."""
    yield from _pool(1)


@pytest.fixture(scope="module")
def two_ranks() -> Iterator["RankPool"]:
    """Yield two processes of a test module's own, in which DeepSpeed trains on two ranks."""
    yield from _pool(2)


def _pool(size: int) -> Iterator["RankPool"]:
    from dsprune.testing.pool import RankPool  # after `pytest_configure`, for torch reads the environment

    with RankPool(size) as pool:
        yield pool
