"""What every test starts from: no network, and no compiler that no test uses."""

import os
from collections.abc import Callable

import pytest

from tests import debian

# Read when huggingface_hub is imported, so before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
# DeepSpeed imports an optimizer whose decorator imports torch's whole compiler: a tenth of a rank's start.
os.environ["TORCHDYNAMO_DISABLE"] = "1"


@pytest.fixture(scope="session")
def need() -> Callable[..., None]:
    """`debian.need`: skip a test whose programs are missing and cannot be installed."""
    return debian.need
