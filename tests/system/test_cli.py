"""The messages and exit codes of the commands: 0 done, 1 a check failed, 2 bad input in one line."""

import json
import sys
import time
from pathlib import Path

import pytest
from transformers import LlamaConfig

from dsprune import __version__
from dsprune.commands.cli import run_command
from dsprune.commands.cli.main import place_local_rank
from dsprune.testing.commands import command, dsprune, error_lines, run
from dsprune.testing.pool import RankPool
from dsprune.testing.tiny import tiny_bert, tiny_sentiment, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    return write_recipe(
        folder / "tiny.yaml", tiny_bert(folder / "bert"), tiny_sentiment(folder / "data", 320)
    )


BAD_INPUT = [
    ("train sentiment-9", "recipe 'sentiment-9': no such file: did you mean 'sentiment-90'?"),
    ("train RECIPE pruning.sparsty=0.9", "pruning.sparsty: value 0.9: unknown key, did you mean"),
    ("train RECIPE pruning.sparsity=9", "pruning.sparsity: value 9: must be less than 1"),
    ("train RECIPE sparsity", "override 'sparsity': write key=value"),
    ("train RECIPE model.path=nowhere", "'nowhere'"),
    ("train RECIPE task.train=none.csv", "task.train: none.csv: no such file"),
    ('train RECIPE task={"name":"sst2"}', "task.dataset: "),
    ("train RECIPE deepspeed=zero9", "deepspeed: no file 'zero9'"),
    ("train RECIPE model=null", "training needs the sections model and task"),
    ("train RECIPE precision=fp16", "precision: fp16: DeepSpeed does not train in it on this machine's device, cpu"),
    ("train", "Missing argument 'RECIPE'. See dsprune train --help"),
    ("plan RECIPE --target 2", "--target': 2.0 is not between 0 and 1. See dsprune plan --help"),
    ("train RECIPE --masks-from ones", "--masks-from': 'ones' is not one of"),
    ("trian", "No such command 'trian'"),
    ("train RECIPE --fast", "No such option: --fast"),
    ("plan RECIPE --stage 4", "--stage"),
    ("plan RECIPE --plot plan.gif", "--plot: value plan.gif: must end in .png or .svg"),
    ("audit nowhere", "nowhere: nothing to audit: give the folder of a run, a checkpoint, a model with masks"),
    ("export runs/none", "--to: value missing: give --to FOLDER to write runs/none, or --push OWNER/NAME"),
    ("export runs/none --to x --public", "--push: value missing: --public and --dry-run need it"),
    ("eval nowhere validation=none.csv", "'nowhere'"),
    ("plan RECIPE --target 0.5 --stage 1", "--stage: for the plan of the recipe itself: leave out --target and"),
    ("plan RECIPE --steps 9 --sweep --plot a.png", "--sweep, --plot: for the plan of the recipe itself: leave"),
    ("calibrate --rate --recipe RECIPE --max-records 9", "--max-records: for a store, not for --rate: leave it"),
    ("calibrate STORE --num-ranks 2 --output x", "--num-ranks, --output: for --rate only: add --rate, or leave it"),
    ("suite baselines RECIPE --slurm --num-ranks 2 --part 0", "--num-ranks, --part: the Slurm jobs set it: leave"),
    ("suite baselines RECIPE --part 0 --dry-run", "--dry-run: prints all parts: leave out --part"),
    ("suite baselines RECIPE --time 10 --partition gpu", "--time, --partition: for Slurm jobs only: add --slurm,"),
    ("data --path .", "--path: checks the data of one task: name the task"),
    ("data sst2 --path nowhere", "--path: value nowhere: no such folder"),
    ("data squat", "task.name: there is no 'squat': did you mean 'squad'?"),
]  # fmt: skip

SCHEMA = ["--local_rank=0 schema", "schema --local-rank=0", "schema"]
HELP = ["", "--help"]

# One process for all of them: most of a command's time is its imports.
MANY_COMMANDS = """
import contextlib, io, json, sys
from dsprune.commands.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["dsprune", *arguments]
    said, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    print("ANSWER", json.dumps([code, said.getvalue(), printed.getvalue()]))
"""


@pytest.fixture(scope="module")
def answers(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit code, stderr and stdout of every bad command, and of those that only print."""
    texts = [*SCHEMA, *(text for text, _ in BAD_INPUT), *HELP, "--version"]  # the schema does its own imports
    commands = [text.replace("RECIPE", str(recipe)).split() for text in texts]
    empty = str(tmp_path_factory.mktemp("cache"))
    done = run([sys.executable, "-c", MANY_COMMANDS, json.dumps(commands)], HF_HOME=empty)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("ANSWER ") for line in lines), "compiled code prints past what is redirected"
    answers = (json.loads(line.removeprefix("ANSWER ")) for line in lines)
    return {text: tuple(answer) for text, answer in zip(texts, answers, strict=True)}


@pytest.mark.parametrize(("text", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(
    answers: dict[str, tuple[int, str, str]], text: str, message: str
) -> None:
    code, said, _ = answers[text]
    assert code == 2
    [line] = [line for line in said.splitlines() if line.startswith("dsprune: ")]
    assert message in line
    assert "Traceback" not in said


def test_the_process_ends_with_the_exit_code() -> None:
    done = dsprune("train", "sentiment-9")
    assert done.returncode == 2
    assert [done.stderr.strip()] == error_lines(done)


def test_a_conflict_is_one_line_a_host(recipe: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({"train_batch_size": 64, "gradient_clipping": 3.0, "scheduler": {}}))
    arguments = ("train", str(recipe), f"deepspeed={config}", "gradient_clipping=1.0")
    with RankPool(2) as ranks:
        first, second = ranks.run(2, command, *arguments)
    assert (second.code, second.stderr) == (2, "")
    line = first.error_line
    for part in ("budget.batch=32 but ds_config: train_batch_size=64", "gradient_clipping=1.0", "scheduler"):
        assert part in line


@pytest.mark.parametrize("arguments", SCHEMA)
def test_the_schema_is_json_wherever_the_launcher_puts_its_argument(
    answers: dict[str, tuple[int, str, str]], arguments: str
) -> None:
    code, said, printed = answers[arguments]
    assert code == 0, said
    schema = json.loads(printed)
    assert {"model", "task", "budget", "pruning"} <= set(schema["properties"])


@pytest.mark.parametrize("arguments", HELP)
def test_help_names_every_command(answers: dict[str, tuple[int, str, str]], arguments: str) -> None:
    code, _, printed = answers[arguments]
    assert code == 0
    for name in ("plan", "train", "eval", "audit", "doctor", "schema"):
        assert f" {name} " in printed


def test_the_version_is_printed(answers: dict[str, tuple[int, str, str]]) -> None:
    assert answers["--version"] == (0, "", f"dsprune {__version__}\n")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tr", ["train"]),
        ("train sentiment-", ["sentiment-90", "sentiment-dense"]),
        ("plan --wor", ["--world-size"]),
    ],
)
def test_a_shell_completes_commands_options_and_recipes(
    words: str, completed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"dsprune {words}"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_DSPRUNE_COMPLETE": "complete_bash"}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        run_command([])
    assert capsys.readouterr().out.split() == completed


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The output of a command that succeeds in this process."""
    assert run_command([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_plan_is_printed_and_drawn(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    picture = tmp_path / "plan.svg"
    text = printed(capsys, "plan", recipe, "--world-size", "2", "--plot", picture)
    for part in ("90.00 %", "14,746", "ZeRO stage 0", f"Picture: {picture}"):
        assert part in text
    assert "<svg" in picture.read_text()
    assert not (recipe.parent / "runs" / "tiny").exists(), "a plan runs nothing"


def test_a_plan_for_seventy_billion_weights_needs_no_such_machine(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    LlamaConfig(
        vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80,
        num_attention_heads=64, num_key_value_heads=8, pad_token_id=0,
    ).save_pretrained(tmp_path)  # fmt: skip
    started = time.monotonic()
    changed = [f"model.path={tmp_path}", "budget={steps: 1000, batch: 64}"]
    text = printed(capsys, "plan", recipe, *changed, "--world-size", "64", "--train-examples", "64000")
    assert time.monotonic() - started < 90
    weights = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28_672)
    assert f"{weights:,} weights in 560 tensors" in text


@pytest.mark.parametrize(
    ("given", "placed"),
    [
        ("--local_rank=1 train glue-90", "train glue-90"),
        ("train glue-90 --local-rank=1", "train glue-90"),
        ("--local_rank=1 run --recipe r.yaml s.py out", "run --recipe r.yaml s.py out --local_rank=1"),
        ("run --recipe r.yaml s.py --local_rank=0 run", "run --recipe r.yaml s.py --local_rank=0 run"),
    ],
)
def test_the_local_rank_goes_to_the_script_alone(given: str, placed: str) -> None:
    assert place_local_rank(given.split()) == placed.split()
