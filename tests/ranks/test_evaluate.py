"""Several ranks have exactly the metrics of one process, and no rank waits forever."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dsprune.model.pretrained import load_tokenizer
from dsprune.ranks.collectives import Comm, gather_in_order
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import tiny_bert, tiny_sentiment
from dsprune.train.evaluation import evaluate, evaluate_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(3) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert(tmp_path_factory.mktemp("bert"), seed=3))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sentiment(tmp_path_factory.mktemp("sentiment"), 8, 37)


def settings_of(data: Path, num_validation: int) -> TaskSettings:
    return TaskSettings(
        name="text-classification",
        train=str(data / "train.csv"),
        validation=str(data / "validation.csv"),
        max_validation=num_validation,
    )


class CollectiveForward(nn.Module):
    """A model whose forward pass communicates, as under ZeRO-3: ranks that run fewer passes would hang."""

    def __init__(self, model: nn.Module, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.model, self.group, self.passes = model, group, 0

    def forward(self, **inputs: Any) -> Any:
        self.passes += 1
        dist.barrier(group=self.group)
        return self.model(**inputs)


def evaluate_on_rank(comm: Comm, bert: str, settings: TaskSettings, batch_size: int) -> dict[str, float]:
    return evaluate_model(bert, settings, device=CPU, batch_size=batch_size, comm=comm)


def evaluate_collectively(
    comm: Comm, bert: str, settings: TaskSettings, batch_size: int
) -> tuple[dict[str, float], int]:
    task, tokenizer = build_task(settings), load_tokenizer(bert)
    model = CollectiveForward(task.build_model(bert, tokenizer), comm.group)
    examples = task.prepare("validation", tokenizer)
    metrics = evaluate(
        model, task, examples, task.collate(tokenizer), batch_size=batch_size, device=CPU, comm=comm
    )
    return metrics, model.passes


@pytest.mark.parametrize("num_validation", [37, 9, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_metrics_do_not_depend_on_the_number_of_ranks(pool, bert, data, world, num_validation):
    settings = settings_of(data, num_validation)
    alone = evaluate_model(bert, settings, device=CPU, batch_size=4)
    assert pool.run(world, evaluate_on_rank, bert, settings, 4) == [alone] * world


@pytest.mark.parametrize("num_validation", [13, 2])
def test_ranks_with_fewer_examples_run_as_many_forward_passes(pool, bert, data, num_validation):
    settings = settings_of(data, num_validation)
    alone = evaluate_model(bert, settings, device=CPU, batch_size=2)
    answers = pool.run(3, evaluate_collectively, bert, settings, 2)
    assert [metrics for metrics, _ in answers] == [alone] * 3
    assert len({passes for _, passes in answers}) == 1


def gather_squares(comm: Comm, owned: list[list[int]]) -> list[str]:
    return gather_in_order({key: str(key**2) for key in owned[comm.rank]}, comm)


def test_items_are_gathered_in_the_order_of_their_keys(pool):
    assert pool.run(3, gather_squares, [[4, 0], [], [1, 3, 2]]) == [["0", "1", "4", "9", "16"]] * 3
