"""Suites as data: their content, and their runs."""

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import typer
import yaml
from rich.console import Console
from transformers import AutoModelForSequenceClassification

from dsprune.commands.cli import app
from dsprune.commands.suite.definition import load_suite, published_results, shipped_suites
from dsprune.commands.suite.execute import prepare_start
from dsprune.commands.suite.grid import Grid, RunSpec, check_methods, rounds_to
from dsprune.commands.suite.launcher import Launcher
from dsprune.commands.suite.published import published_tables, title_of
from dsprune.commands.suite.resolve import resolve
from dsprune.commands.suite.starts import save_start
from dsprune.commands.suite.suite import Choice, parts_of, suite, suite_part
from dsprune.errors import StoppedError, UserError
from dsprune.model.prunable import choose_weights
from dsprune.recipe import load_recipe, shipped_recipes
from dsprune.schedule.law import scaled_epochs
from dsprune.testing.tiny import tiny_bert, write_recipe

NAMES = "baselines", "guidelines"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("suite")
    pruning = {"sparsity": 0.9}
    return str(write_recipe(folder / "tiny.yaml", tiny_bert(folder / "bert"), folder, pruning=pruning))


def grid(name: str, recipe: str, *overrides: str) -> Grid:
    return Grid(load_suite(name), recipe, overrides, Path("out"))


def all_runs(
    made: Grid, methods: Sequence[str], sparsities: Sequence[float], seeds: Sequence[int] = (1,)
) -> list[RunSpec]:
    first, then = made.parts(methods, sparsities, seeds)
    return [run for part in (*first, *then) for run in part.runs]


def runs_of(name: str, recipe: str, *overrides: str, seeds: tuple[int, ...] = (1,)) -> dict[str, RunSpec]:
    made = grid(name, recipe, *overrides)
    listed = all_runs(made, list(made.suite.methods), made.suite.sparsity, seeds)
    found = {run.name: run for run in listed}
    assert len(found) == len(listed), "each run once"
    return found


def test_the_suites_are_there() -> None:
    assert set(NAMES) <= set(shipped_suites())


@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_shipped_suite_is_a_sound_recipe(name: str, recipe: str) -> None:
    made = grid(name, recipe)
    for run in runs_of(name, recipe, seeds=(1, 2)).values():
        if any("{calibrated}" in override for override in run.overrides):
            continue  # needs a store
        resolved = resolve(run, made, Launcher(Path("out"), 1))
        assert resolved.name == run.name
        assert resolved.tracking.group is not None
        assert resolved.budget.epochs in (4.0, 1.2), "all at the recipe's length, but for the short budget"


def test_each_guideline_is_off_once(recipe: str) -> None:
    made = grid("guidelines", recipe)
    runs = {
        name.removesuffix("-90-seed1"): resolve(run, made, Launcher(Path("out"), 1))
        for name, run in runs_of("guidelines", recipe).items()
        if "calibrated" not in name
    }
    everything = runs["all-guidelines"]
    assert everything.distillation.teacher == "out/teacher-seed1/model"
    assert everything.tracking.tags == ("reference",)
    include = runs["embeddings-and-head-pruned"].pruning.include
    assert "bert.embeddings.word_embeddings.weight" in include
    assert "classifier.weight" in include
    assert not runs["one-decaying-learning-rate"].learning_rate.rewind
    assert runs["no-first-jump"].pruning.first == 0
    assert runs["uniform-scope"].pruning.scope == "uniform"
    assert runs["no-distillation"].distillation is None
    assert runs["hardness-0.5"].distillation.hardness.first == 0.5
    none = runs["none"]
    assert (none.distillation, none.learning_rate.rewind, none.pruning.first) == (None, False, 0)
    assert set(none.pruning.include) == set(include)


def test_a_recipe_with_a_teacher_keeps_it(recipe: str) -> None:
    taught = runs_of("guidelines", recipe, "distillation.teacher=mine", "distillation.store=answers")
    assert "teacher-seed1" not in taught
    made = grid("guidelines", recipe, "distillation.teacher=mine", "distillation.store=answers")
    resolved = resolve(taught["all-guidelines-90-seed1"], made, Launcher(Path("out"), 1))
    assert (resolved.distillation.teacher, resolved.distillation.store) == ("mine", "answers")


def test_teachers_come_before_their_students(recipe: str) -> None:
    names = list(runs_of("guidelines", recipe, seeds=(1, 2)))
    assert names[:2] == ["teacher-seed1", "teacher-seed2"]


def test_parts_can_be_made_side_by_side(recipe: str) -> None:
    """A teacher and its store for each seed come first; rounds that need the one before stay together."""
    made = grid("baselines", recipe)
    methods = ["gradual, all guidelines", "lottery ticket", "gradual, no distillation"]
    first, then = made.parts(methods, [0.2, 0.5], [1, 2])
    assert [[run.name for run in part.runs] for part in first] == [["teacher-seed1"], ["teacher-seed2"]]
    assert [part.student and part.student.seed for part in first] == [1, 2]
    assert {part.student for part in then} == {None}
    of_first_seed = [[run.name for run in part.runs] for part in then if part.runs[0].seed == 1]
    rounds = [f"lottery-ticket-{percent}-seed1" for percent in (0, 20, 36, "48.8", 50)]
    assert [names for names in of_first_seed if len(names) > 1] == [rounds]
    assert len(of_first_seed) == 2 + 1 + 2
    named = grid("baselines", recipe, "distillation.teacher=mine", "distillation.store=answers")
    [store] = named.parts(methods, [0.5], [1, 2])[0]
    assert (store.runs, store.student is not None) == ((), True), "one store for both seeds"


def test_a_part_that_is_not_there_is_refused(recipe: str) -> None:
    choice = Choice("baselines", recipe, methods=("gradual, no distillation",), sparsities=(0.5,))
    with pytest.raises(UserError, match=r"--part: value 1: the suite has parts 0 to 0"):
        suite_part(choice, 1, 1, Console())


def test_a_round_needs_the_one_before(recipe: str) -> None:
    made = grid("baselines", recipe)
    ticket = runs_of("baselines", recipe)["lottery-ticket-20-seed1"]
    resolved = resolve(ticket, made, Launcher(Path("out"), 1))
    with pytest.raises(
        UserError, match=r"20-seed1: the round before it, lottery-ticket-0-seed1, has no model: run it"
    ):
        prepare_start(ticket, made, resolved)


def test_a_choice_is_typed_as_it_was_made(recipe: str) -> None:
    choice = Choice("baselines", recipe, ("seed=3",), ("lottery ticket",), (0.5,), 2, Path("out"))
    assert choice.arguments() == [
        "baselines", recipe, "seed=3", "--methods=lottery ticket", "--sparsity=0.5", "--output=out", "--seeds=2",
    ]  # fmt: skip


def test_rounds_take_a_fifth_each_and_end_on_the_target() -> None:
    assert rounds_to(0.36) == [0.2, 0.36]
    assert rounds_to(0.9)[-2:] == [0.8926, 0.9]
    assert rounds_to(0.9925)[-2:] == [0.9908, 0.9925]


@pytest.mark.parametrize("name", [name for name in shipped_suites() if name.startswith("smc-")])
def test_a_lottery_ticket_over_the_grid_of_a_benchmark_trains_once_a_round(name: str, recipe: str) -> None:
    loaded = load_suite(name)
    made = Grid(loaded, recipe, (), Path("out"))
    runs = all_runs(made, ["lottery ticket"], loaded.sparsity)
    assert [load_recipe(run.recipe, run.overrides).pruning for run in runs[:1]] == [None]
    pruned = [load_recipe(run.recipe, run.overrides).pruning for run in runs[1:]]
    assert [pruning.sparsity for pruning in pruned if pruning] == [
        *(0.2, 0.36, 0.488, 0.59, 0.672, 0.738, 0.791, 0.8325, 0.866, 0.893)
    ]


def shown_commands(choice: Choice, capsys: pytest.CaptureFixture[str], num_ranks: int = 1) -> list[str]:
    suite(choice, num_ranks, True, Console(width=80, soft_wrap=True))
    return capsys.readouterr().out.splitlines()


def parsed(words: Sequence[str]) -> tuple[str, dict[str, object]]:
    """A parsed command: its name and its parameters."""
    group = typer.main.get_command(app)
    above = group.make_context("dsprune", [*words])
    name, command, rest = group.resolve_command(above, [*above._protected_args, *above.args])
    return str(name), command.make_context(name, rest, parent=above).params


def test_a_dry_run_prints_the_very_commands(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    targets = (0.2, 0.36)
    choice = Choice("smc-commonsense", recipe, sparsities=targets, output=Path("out"))
    first, then = parts_of(choice)
    lines = shown_commands(choice, capsys)
    for number, part in enumerate((*first, *then)):
        by_suite = any(run.start is not None for run in part.runs)
        for run in part.runs:
            mark, line = ("# ", lines.pop(0)) if by_suite else ("", lines.pop(0))
            assert line.startswith(f"{mark}dsprune train ")
            name, asked = parsed(shlex.split(line.removeprefix(mark))[1:])
            assert name == "train"
            printed = load_recipe(str(asked["recipe"]), asked["overrides"])
            assert printed == resolve(run, part.grid, Launcher(part.grid.output, 1))
            assert (asked["masks_from"] == "zeros") == (run.rewound is not None)
        if by_suite:
            name, asked = parsed(shlex.split(lines.pop(0))[1:])
            assert (name, asked["part"], asked["name"], asked["recipe"]) == (
                "suite",
                number,
                choice.name,
                recipe,
            )
            assert (asked["sparsity"], asked["seeds"], asked["output"]) == ([*targets], 1, Path("out"))
    assert lines == []


def test_a_dry_run_of_what_is_calibrated_is_the_command_of_its_part(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = Choice("guidelines", recipe, methods=("temperature calibrated", "dense"), output=Path("out"))
    teacher, comment, suite_command, dense = shown_commands(choice, capsys, num_ranks=2)
    launched = "deepspeed --num_accelerators 2 --module dsprune train "
    assert teacher.startswith(launched)
    assert dense.startswith(launched)
    assert comment.startswith(f"# {launched}")
    name, asked = parsed(shlex.split(suite_command)[1:])
    first, then = parts_of(choice)
    assert (name, asked["num_ranks"]) == ("suite", 2)
    assert [run.name for run in (*first, *then)[asked["part"]].runs] == ["temperature-calibrated-90-seed1"]


@pytest.mark.parametrize("output", ["runs/a #b", "runs/no", "[x]", "a: b", "it's"])
def test_a_folder_with_characters_of_yaml_is_itself_or_refused(recipe: str, output: str) -> None:
    made = Grid(load_suite("baselines"), recipe, (), Path(output))
    run = all_runs(made, ["gradual, no distillation"], [0.5])[-1]
    assert load_recipe(run.recipe, run.overrides).output == output
    distilled = all_runs(made, ["gradual, all guidelines"], [0.5])[-1]
    if output == "runs/no":
        resolved = resolve(distilled, made, Launcher(Path(output), 1))
        assert resolved.distillation.teacher == "runs/no/teacher-seed1/model"
        return
    with pytest.raises(
        UserError, match=r"the path .*teacher-seed1/model.* has a character with a meaning in YAML"
    ):
        resolve(distilled, made, Launcher(Path(output), 1))


def test_a_lottery_ticket_begins_anew_where_the_other_goes_on(recipe: str) -> None:
    found = runs_of("baselines", recipe)
    ticket, other = found["lottery-ticket-36-seed1"], found["iterative-learning-rate-rewound-36-seed1"]
    assert 'model.path="out/lottery-ticket-36-seed1-start"' in ticket.overrides
    assert ticket.rewound == Path("out/lottery-ticket-20-seed1/model")
    assert ticket.start == found["lottery-ticket-0-seed1"].start == Path("out/lottery-ticket-0-seed1-start")
    assert 'model.path="out/iterative-learning-rate-rewound-20-seed1/model"' in other.overrides
    assert other.rewound is None


def test_rounds_change_nothing_in_the_model_of_the_round_before(recipe: str) -> None:
    found = runs_of("baselines", recipe, "model.layers=[0]", "model.new_head=true")
    for name in (
        "lottery-ticket-0-seed1",
        "lottery-ticket-36-seed1",
        "iterative-learning-rate-rewound-36-seed1",
    ):
        assert {"model.layers=null", "model.new_head=false"} <= set(found[name].overrides), name
    first = found["iterative-learning-rate-rewound-0-seed1"].overrides
    assert not {"model.layers=null", "model.new_head=false"} & set(first)


def test_a_ticket_starts_from_the_changed_model(recipe: str, tmp_path: Path) -> None:
    base = load_recipe(recipe, ["model.layers=[1]", "task={name: sst2}"])
    save_start(base, base.model, tmp_path / "start")
    start = AutoModelForSequenceClassification.from_pretrained(tmp_path / "start")
    whole = AutoModelForSequenceClassification.from_pretrained(base.model.path)
    ours, theirs = start.bert.encoder.layer[0].state_dict(), whole.bert.encoder.layer[1].state_dict()
    assert start.config.num_hidden_layers == 1
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_without_a_length_each_target_has_its_own(recipe: str) -> None:
    found = runs_of("baselines", recipe, "budget.epochs=null")
    for target in (0.5, 0.9):
        run = found[f"gradual-no-distillation-{100 * target:g}-seed1"]
        budget = load_recipe(run.recipe, run.overrides).budget
        assert budget.epochs == pytest.approx(scaled_epochs(target), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("", "mine.yaml: value None: a suite is a mapping"),
        ("- a", r"mine.yaml: value \['a'\]: a suite is a mapping"),
        ("3", "mine.yaml: value 3: a suite is a mapping"),
        ("{title: t, title: u}", "found the key 'title' twice"),
        ("{title: t, sparsity: ['0.9'], methods: {a: {}}}", "sparsity.0: value '0.9': must be a valid number"),
        ("{title: t, sparsity: [true], methods: {a: {}}}", "sparsity.0: value True: must be a valid number"),
        ("{title: t, sparsity: [0.9], methods: {a: {budget: 1e300}}}", "methods.a.budget: value 1e.300: must be"),
        ("{title: t, sparsity: [0.9], methods: {}}", "methods: value {}"),
        ("{title: t, sparsity: [0.9], methods: {a: {base: b}}}", "there is no method 'b' before 'a'"),
        ("{title: t, sparsity: [0.9], methods: {a: {}}, published: [obret]}", "published.0: value 'obret': there are"),
        ("{title: t, sparsity: [0.9], methods: {a: {sett: []}}}", "methods.a.sett: value .*did you mean 'set'"),
        ("{title: t, sparsity: [], methods: {a: {}}}", r"sparsity: value \(\)|sparsity: value \[\]"),
        ("{title: t, sparsity: [0.9], methods: {a: {set: [seed=4]}}}", "a.set.0: value 'seed=4': .* use --seeds"),
        ("{title: t, sparsity: [0.9], methods: {a: {set: ['name=x']}}}", "a.set.0: value 'name=x': .* rename"),
        ("{title: t, recipes: {'..': x}, sparsity: [0.9], methods: {a: {}}}", r"recipes.*value '\.\.'"),
        ("{title: t, recipes: {a: ' '}, sparsity: [0.9], methods: {a: {}}}", "recipes.a: value ' ': names no recipe"),
        ('{title: t, recipes: {a: "x \'"}, sparsity: [0.9], methods: {a: {}}}', "recipes.a: value .*quotation"),
    ],
)  # fmt: skip
def test_a_wrong_suite_is_told_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_suite(str(path))
    assert "\n" not in str(raised.value)


def suite_file(folder: Path, methods: dict[str, object]) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"title": "Mine", "sparsity": [0.5, 0.5, 0.9], "methods": methods}))
    return str(path)


def test_a_value_that_the_suite_would_replace_is_refused(recipe: str, tmp_path: Path) -> None:
    name = suite_file(tmp_path, {"a": {}})
    with pytest.raises(UserError, match=r"override 'output=elsewhere': .* use --output"):
        parts_of(Choice(name, recipe, ("output=elsewhere",)))
    _, parts = parts_of(Choice(name, recipe, ("tracking.tags=[mine]",)))
    runs = [run for part in parts for run in part.runs]
    assert [run.name for run in runs] == ["a-50-seed1", "a-90-seed1"], "each once"
    assert load_recipe(runs[0].recipe, runs[0].overrides).tracking.tags == ("mine",)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"a b": {}, "a-b": {"set": ["precision=fp32"]}}, "out/a-b-50-seed1: the folder of 2 runs"),
        (
            {"teacher": {"set": ["pruning=null"]}, "b": {"set": ["distillation.teacher={teacher}"]}},
            "out/teacher-seed1: the folder of 2 runs",
        ),
        ({"a": {"set": ["pruning={sparsity: 0.7}"]}}, r"a-50-seed1: pruning.sparsity: value 0.7: .* is 0.5"),
        ({"a": {"set": ["pruning=~"]}}, r"a-50-seed1: pruning.sparsity: value None: .* exactly pruning=null"),
        ({"a": {}, "b": {"set": ["pruning.metod=x"]}}, "^b-50-seed1: pruning.metod: value 'x': unknown key"),
        (
            {"a": {"components": ["pooller"]}},
            "^a-50-seed1: components: value 'pooller': did you mean 'pooler'",
        ),
    ],
)
def test_all_runs_are_checked_before_the_first(
    recipe: str, tmp_path: Path, methods: dict[str, object], message: str
) -> None:
    choice = Choice(suite_file(tmp_path, methods), recipe, output=Path("out"))
    with pytest.raises(UserError, match=message):
        suite(choice, 1, False, Console())
    assert not Path("out").exists()


BENCHMARKS = sorted(set(shipped_suites()) - set(NAMES))


def test_both_benchmarks_are_there() -> None:
    assert BENCHMARKS == ["classic", "smc-arithmetic", "smc-commonsense", "smc-protein", "smc-translation"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_recipe_of_a_benchmark_is_a_grid_of_sound_runs(name: str, recipe: str) -> None:
    """Their models are not here: a tiny one stands in for them, by which no weight is missing."""
    loaded = load_suite(name)
    model = load_recipe(recipe).model
    for place, text in enumerate(loaded.recipes.values()):
        own, *values = shlex.split(text)
        assert own in shipped_recipes()
        small = (*values, f"model.path={model.path}", "task={name: sst2, max_length: 32}")
        made = Grid(loaded, own, small, Path("out"))
        listed = all_runs(made, list(loaded.methods), loaded.sparsity[:2])
        for run in listed if place == 0 else ():
            resolved = resolve(run, made, Launcher(Path("out"), 1))
            assert (resolved.pruning is None) == ("pruning=null" in run.overrides)


def test_a_target_of_all_matrices_leaves_as_many_zeros_whatever_is_pruned(recipe: str) -> None:
    model = load_recipe(recipe).model
    overrides = (f"model.path={model.path}", "task={name: sst2, max_length: 32}")
    made = Grid(load_suite("smc-commonsense"), "smc-commonsense-qa", overrides, Path("out"))
    zeros = {}
    for run in all_runs(made, ["gradual, all guidelines", "gradual, as in SMC-Bench"], [0.488]):
        resolved = resolve(run, made, Launcher(Path("out"), 1))
        if resolved.pruning is None:
            continue
        assert "target=0.488" in resolved.tracking.tags
        tensors = choose_weights(made.model, resolved.pruning.include).tensors
        zeros[run.name] = resolved.pruning.sparsity * sum(tensor.numel for tensor in tensors)
    first, second = zeros.values()
    assert first == pytest.approx(second, rel=1e-4)
    too_much = all_runs(made, ["gradual, all guidelines"], [0.95])[-1]
    with pytest.raises(UserError, match=r"0.95 of all matrices cannot be zero when only .* are pruned"):
        resolve(too_much, made, Launcher(Path("out"), 1))


def test_published_results_say_where_they_are_from() -> None:
    tables = {table.name: table for table in published_tables(list(published_results()))}
    assert "read off a plot" in tables["published-smc-commonsense"].note
    assert "linear weights of the encoder" in tables["published-obert"].note
    [row] = [row for row in tables["published-obert"].rows if row[:2] == ("SQuAD", "oBERT")]
    assert row[2:] == ("-", "89.04", "88.31", "85.98")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"suite 'guideline': no such file: did you mean 'guidelines'\?"):
        load_suite("guideline")
    with pytest.raises(UserError, match=r"--methods: 'nothing': the methods are 'dense', "):
        check_methods(load_suite("guidelines"), ["nothing"])
    with pytest.raises(UserError, match=r"suite 'guidelines': needs a recipe: name one after it"):
        parts_of(Choice("guidelines"))


def test_the_path_of_a_recipe_may_have_spaces(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "my 'own' recipes" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(Path(recipe).read_text())
    _, [part] = parts_of(Choice("guidelines", str(path), methods=("no distillation",), sparsities=(0.5,)))
    assert part.runs[0].recipe == str(path)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine: exit code 2: name: value 3: .*: see .*mine.log"):
        Launcher(tmp_path, 1).run("train", "mine", yaml.safe_dump({"name": 3, "budget": {"batch": 1}}))


class Ends(Launcher):
    """Runs a program in place of a command."""

    def command(self, name: str, recipe: Path, *arguments: str) -> list[str]:
        return [sys.executable, "-c", name]


def test_a_message_of_an_earlier_attempt_is_not_taken_for_that_of_this_one(tmp_path: Path) -> None:
    launcher = Ends(tmp_path, 1)
    with pytest.raises(UserError, match=r"mine: exit code 2: the first: see "):
        launcher.run("import sys; print('dsprune: the first', file=sys.stderr); sys.exit(2)", "mine", "")
    with pytest.raises(UserError, match=r"mine: exit code 3: Killed: see "):
        launcher.run("print('Killed'); raise SystemExit(3)", "mine", "")


def test_a_run_that_does_not_end_is_killed_and_the_interrupt_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsprune.commands.suite.launcher.GRACE", 0.1)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(2)
    busy = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    try:
        with pytest.raises(StoppedError, match=r"^mine: interrupted; run the same command again"):
            Ends(tmp_path, 1).run(busy, "mine", "")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_damaged_record_of_a_suite_is_named(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text('{"title": "t", "published": ["obret"]}')
    with pytest.raises(
        UserError, match=r"suite.json: not the title of a suite .*'obret'.*: run the suite again"
    ):
        title_of([tmp_path])


def test_several_ranks_go_through_the_launcher() -> None:
    command = Launcher(Path("out"), 2).command("train", Path("a.yaml"))
    assert command[2:4] == ["--num_accelerators", "2"]
    assert command[-4:] == ["--module", "dsprune", "train", "a.yaml"]
