"""What `dsprune submit` makes of sinfo's answer, of times and sparsities, and of a recipe."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from dsprune.commands.submit.cluster import Request, check, parse_nodes, parse_time
from dsprune.commands.submit.jobs import parse_sparsities, plan_jobs
from dsprune.distillation.store.format import MANIFEST
from dsprune.errors import UserError
from dsprune.recipe import Recipe, load_recipe

SINFO = """\
gpu*|a1|idle|gpu:a100:4(S:0-1),shard:8|2-00:00:00
gpu*|a2|mixed~|gpu:a100:4(S:0-1)|2-00:00:00
gpu*|a3|down*|gpu:a100:8|2-00:00:00
gpu*|a4|allocated*|gpu:a100:4|2-00:00:00
mixed|b1|allocated|gpu:1g.5gb:7,gpu:v100:2|infinite
cpu|c1|idle|(null)|30:00
"""


def test_nodes_are_read_as_sinfo_prints_them() -> None:
    nodes = parse_nodes(SINFO)
    assert [node.partition for node in nodes] == ["gpu"] * 4 + ["mixed", "cpu"]
    assert [node.is_default for node in nodes] == [True] * 4 + [False] * 2
    assert [node.is_up for node in nodes] == [True, True, False, False, True, True]
    assert [node.num_gpus for node in nodes] == [4, 4, 8, 4, 9, 0]
    assert nodes[0].max_time == timedelta(days=2)
    assert nodes[4].max_time is None
    assert nodes[5].max_time == timedelta(minutes=30)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("90:30", 5430), ("24:00:00", 86_400), ("1-12", 129_600), ("1-12:30", 131_400),
        ("2-00:00:01", 172_801),
    ],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert parse_time(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "1-", "-5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"--time: value {text!r}: write minutes, H:M:S or DAYS")):
        parse_time(text)


@pytest.mark.parametrize(
    "request_",
    [Request(2, 4, "2-0", None), Request(1, None, None, "cpu"), Request(1, 9, "99-0", "mixed")],
)
def test_what_the_cluster_has_is_granted(request_: Request) -> None:
    check(request_, parse_nodes(SINFO))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            Request(3, 4, None, None),
            "--nodes: value 3: partition gpu has 4 nodes, 2 of them up with 4 GPUs: ask",
        ),
        (
            Request(3, None, None, None),
            "--nodes: value 3: partition gpu has 4 nodes, 2 of them up: ask for 2",
        ),
        (Request(1, 9, None, None), "--gpus-per-node: value 9: the nodes of partition gpu have 8 at most"),
        (Request(1, 1, None, "cpu"), "--gpus-per-node: value 1: the nodes of partition cpu have 0 at most"),
        (
            Request(1, 1, "2-00:01", None),
            "--time: value 2-00:01: partition gpu allows 2 days, 0:00:00 at most",
        ),
        (
            Request(1, 1, None, "x"),
            "--partition: value x: there is no such partition: use one of cpu, gpu, mixed",
        ),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(request_: Request, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(request_, parse_nodes(SINFO))


def test_a_cluster_without_a_default_needs_the_name_of_a_partition() -> None:
    with pytest.raises(
        UserError, match="--partition: value missing: there is no default: use one of cpu, gpu"
    ):
        check(Request(1, None, None, None), parse_nodes(SINFO.replace("*|a", "|a")))


def test_sparsities_number_the_jobs_in_thousandths() -> None:
    assert parse_sparsities("0.5,0.8, 0.9,.95,0.975") == [500, 800, 900, 950, 975]


@pytest.mark.parametrize("text", ["1", "0", "0.9375", "-0.5", "half", "nan", ""])
def test_what_is_no_sparsity_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"--array: value {text!r}: sparsities are fractions")):
        parse_sparsities(f"0.5,{text}")


def recipe(**sections: object) -> Recipe:
    return load_recipe("glue-90", [f"{key}={value}" for key, value in sections.items()])


def test_a_recipe_is_one_job() -> None:
    [job] = plan_jobs(recipe(), ["glue-90"], Request(2, 4, "1-0", "gpu"), [], ["--account=nlp"])
    command = job.command(after=None)
    assert command[0] == "sbatch"
    assert {"--nodes=2", "--gpus-per-node=4", "--time=1-0", "--partition=gpu", "--account=nlp"} <= set(
        command
    )
    assert Path(command[-2]).name == "train.sbatch"
    assert Path(command[-2]).is_file()
    assert command[-1] == "glue-90"


def test_what_is_not_asked_for_is_left_to_the_script() -> None:
    [job] = plan_jobs(recipe(), ["glue-90"], Request(1, None, None, None), [], [])
    assert not [
        option for option in job.options if option.startswith(("--gpus", "--time", "--part", "--array"))
    ]


def test_a_store_that_is_missing_is_made_first(tmp_path: Path) -> None:
    taught = recipe(**{"distillation.teacher": "t", "distillation.store": tmp_path / "store"})
    teacher, train = plan_jobs(taught, ["r"], Request(1, 1, None, None), [500, 900], [])
    assert (teacher.what, train.what) == ("teacher", "train")
    assert "--array=500,900" in train.command(after="7")
    assert "--dependency=afterok:7" in train.command(after="7")
    assert not [option for option in teacher.options if option.startswith("--array")]
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / MANIFEST).touch()
    assert [job.what for job in plan_jobs(taught, ["r"], Request(1, 1, None, None), [], [])] == ["train"]


def test_sparsities_of_a_dense_recipe_are_refused() -> None:
    dense = load_recipe("sentiment-dense", ["budget.batch=8"])
    with pytest.raises(UserError, match="--array: recipe 'sentiment-dense' has no section pruning: add one"):
        plan_jobs(dense, ["sentiment-dense"], Request(1, None, None, None), [500], [])
