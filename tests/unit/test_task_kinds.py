"""Checks of every kind of task for training, evaluation and distillation, in one process."""

from collections.abc import Callable

import pytest

from dsprune.errors import UserError
from dsprune.tasks.build import build_task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import KINDS, Kind
from dsprune.testing.tasks import CHECKS, ReadyTask

pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReadyTask:
    kind: Kind = request.param
    folder = tmp_path_factory.mktemp(kind.task)
    model = models.save(folder / "model", kind.model, kind.tokenizer(folder))
    return ReadyTask(model, {"name": kind.task, "max_length": 40, **kind.write(folder / "data")})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_kind_of_task_keeps_its_promises(ready: ReadyTask, check: Callable[[ReadyTask], None]) -> None:
    check(ready)


def test_the_data_are_missing(ready: ReadyTask) -> None:
    update = {"train": None, "validation": None}
    task = build_task(ready.settings.model_copy(update=update))
    with pytest.raises(UserError, match=r"^task\.(train: no data: give|dataset: .*cannot be reached)"):
        task.load("train")
