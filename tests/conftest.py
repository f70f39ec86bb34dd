"""Settings of all tests: no network, no unused compiler, and the long files first."""

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
# A dumb terminal has no progress bar.
os.environ["TERM"] = "xterm"
# DeepSpeed imports an optimizer whose decorator imports torch's compiler, which takes a tenth of a rank's start.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
# Background processes of a shell or nohup ignore Ctrl-C or SIGHUP, and all processes of the tests would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The speed of the machine must not decide a test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# Garbage collection is off during the import of the test modules: it would take a fifth of that time.
gc.disable()

LONG = (
    "cluster/test_requeue.py",
    "cluster/test_pipeline.py",
    "engine/test_kinds.py",
    "system/test_launcher.py",
    "engine/test_invariants.py",
    "engine/test_topologies.py",
    "system/test_distillation.py",
    "cluster/test_hosts.py",
    "system/test_teacher.py",
    "system/test_suite.py",
    "system/test_examples.py",
    "system/test_train.py",
    "system/test_faults.py",
    "engine/test_variants.py",
    "system/test_cli.py",
)
"""The longest files, in the order in which processes that share the tests should start them."""


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs of this machine, except from the tests marked `gpu`, and interpret Triton's kernels.

    Ranks that share a GPU would wait for each other. The variables are read at imports, so they are set before any test
    module is imported.
    """
    if config.getoption("markexpr") == "not gpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, so that no long file ends last."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """Turn garbage collection on again, except for imported objects."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let the imported objects be collected: Triton reports those that are left at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def need() -> Callable[..., None]:
    """`debian.need`: skip a test whose programs are missing and cannot be installed."""
    return debian.need


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Give each test its own environment, because joining ranks in this process sets RANK and others."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def one_rank() -> Iterator["RankPool"]:
    """Yield a process for a test module, in which DeepSpeed trains on one rank."""
    yield from _pool(1)


@pytest.fixture(scope="module")
def two_ranks() -> Iterator["RankPool"]:
    """Yield two processes for a test module, in which DeepSpeed trains on two ranks."""
    yield from _pool(2)


def _pool(size: int) -> Iterator["RankPool"]:
    from dsprune.testing.pool import RankPool  # after `pytest_configure`, because torch reads the environment

    with RankPool(size) as pool:
        yield pool
