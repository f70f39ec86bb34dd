import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dsprune.errors import UserError
from dsprune.recipe import (
    Pruning,
    Recipe,
    Span,
    as_recipe,
    dump_recipe,
    load_recipe,
    load_task,
    recipe_schema,
    shipped_recipes,
)

MINIMAL = {"model": {"path": "m"}, "task": {"name": "sst2"}, "budget": {"batch": 8, "epochs": 1}}


def write(folder: Path, values: object, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return str(path)


class TestShipped:
    def test_the_shipped_recipes_are_these(self) -> None:
        assert shipped_recipes() == [
            *("decoder-50", "glue-90", "gmp-glue", "gmp-squad", "mlperf-95"),
            *(
                "obert-30-epochs",
                "obert-squad",
                "obert-squad-3-layers",
                "obert-squad-6-layers",
                "obert-squad-dense",
                "obert-transfer",
                "obert-transfer-squad",
                "obert-upstream",
            ),
            *("sentiment-90", "sentiment-dense", "smc-arithmetic", "smc-arithmetic-graph2tree"),
            *("smc-commonsense-qa", "smc-gmp"),
            *("smc-protein", "smc-race", "smc-translation-10", "smc-translation-2", "smc-translation-5"),
            *("smc-winogrande", "squad-dense", "wanda-50"),
        ]

    @pytest.mark.parametrize("name", shipped_recipes())
    def test_each_is_valid_and_says_what_it_is(self, name: str) -> None:
        assert load_recipe(name).name == name
        text = (Path(__file__).parents[2] / "dsprune" / "recipes" / f"{name}.yaml").read_text()
        assert text.startswith("# ")
        assert f"dsprune train {name}" in text

    def test_the_demo_prunes_what_it_fine_tuned_and_learns_from_it_on_the_same_data(self) -> None:
        dense, sparse = load_recipe("sentiment-dense"), load_recipe("sentiment-90")
        assert dense.pruning is None
        assert sparse.pruning is not None
        assert sparse.model.path == sparse.distillation.teacher == f"{dense.output}/{dense.name}/model"
        assert dense.task == sparse.task

    @pytest.mark.parametrize("name", shipped_recipes())
    def test_a_dumped_recipe_is_read_back_equal(self, name: str, tmp_path: Path) -> None:
        recipe = load_recipe(name)
        path = tmp_path / "other-name.yaml"
        path.write_text(dump_recipe(recipe))
        assert load_recipe(str(path)) == load_recipe(path) == recipe


class TestValues:
    def test_they_give_the_recipe_of_a_file(self, tmp_path: Path) -> None:
        values = {**MINIMAL, "pruning": {"sparsity": 0.8}}
        before = yaml.safe_dump(values)
        assert as_recipe(values) == load_recipe(write(tmp_path, values, "script.yaml"))
        assert as_recipe({**values, "name": "other"}).name == "other"
        assert yaml.safe_dump(values) == before

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({**MINIMAL, "pruning": {"sparsity": 2}}, "^pruning.sparsity: value 2"),
            ({**MINIMAL, "purning": {}}, "^purning: "),
            ({**MINIMAL, 1: {}}, "^1: "),
            (["pruning"], "^recipe: a list"),
        ],
    )
    def test_what_is_no_recipe_is_refused(self, values: Any, says: str) -> None:
        with pytest.raises(UserError, match=says):
            as_recipe(values)


class TestLoading:
    def test_the_file_gives_the_name(self, tmp_path: Path) -> None:
        assert load_recipe(write(tmp_path, MINIMAL)).name == "mine"

    def test_a_file_wins_over_a_shipped_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, MINIMAL, "glue-90")
        monkeypatch.chdir(tmp_path)
        assert load_recipe("glue-90").model.path == "m"

    def test_a_missing_recipe_is_named_with_a_similar_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("reviews.yaml").touch()
        for name, meant in (("glue90", "glue-90"), ("review.yaml", "reviews.yaml")):
            with pytest.raises(
                UserError, match=rf"recipe '{name}': .*did you mean '{meant}'\?.*`dsprune recipes`"
            ):
                load_recipe(name)
        with pytest.raises(UserError, match=r"recipe 'zzz.yaml': no such file: `dsprune new`"):
            load_recipe("zzz.yaml")

    @pytest.mark.parametrize("text", ["", "- a\n- b\n", "hello"])
    def test_a_file_that_holds_something_else(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "r.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=r"r.yaml: value .*: a recipe is a mapping of keys to values"):
            load_recipe(str(path))

    @pytest.mark.parametrize("content", [b"model: [1\nb: 2", b"\xff\xfe\xfd", b"seed: !!int ''"])
    def test_a_file_that_is_not_yaml(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "r.yaml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"r.yaml: not valid YAML: ") as caught:
            load_recipe(str(path))
        assert "\n" not in str(caught.value)

    def test_a_recipe_is_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load_recipe("glue-90").seed = 1


class TestOverrides:
    def test_values_are_yaml_and_the_last_wins(self) -> None:
        overrides = [
            "pruning.sparsity=0.5",
            "pruning.include=['*.weight']",
            "precision=fp32",
            "precision=fp16",
        ]
        overrides += [
            "pruning.start=3 epochs",
            "learning_rate.peak=3e-4",
            "model.tokenizer=null",
            "output=a=b",
        ]
        recipe = load_recipe("glue-90", overrides)
        assert recipe.pruning == Pruning(sparsity=0.5, include=("*.weight",), start=Span(3.0, "epochs"))
        assert recipe.learning_rate.peak == 3e-4
        assert (recipe.precision, recipe.model.tokenizer, recipe.output) == ("fp16", None, "a=b")

    def test_a_section_can_be_removed_or_made(self) -> None:
        recipe = load_recipe("glue-90", ["pruning=null", "budget.epochs=2", "distillation.teacher=store"])
        assert recipe.pruning is None
        assert recipe.distillation is not None
        assert load_recipe("sentiment-dense", ["pruning.sparsity=0.5"]).pruning == Pruning(sparsity=0.5)

    @pytest.mark.parametrize("override", ["precision", "=1", "pruning.=1"])
    def test_something_that_is_no_override(self, override: str) -> None:
        with pytest.raises(UserError, match=r"override '.*': write key=value or section.key=value"):
            load_recipe("glue-90", [override])

    def test_a_value_that_is_not_yaml(self) -> None:
        with pytest.raises(UserError, match=r"override 'seed=\[': not valid YAML"):
            load_recipe("glue-90", ["seed=["])

    def test_an_override_changes_one_place_of_a_shared_mapping(self, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.write_text(
            "budget: {batch: 8}\npruning: {sparsity: 0.5, sparsities: &own {a: 0.1}}\nlearning_rate: {scale: *own}\n"
        )
        recipe = load_recipe(str(path), ["learning_rate.scale.a=0.2"])
        assert recipe.pruning.sparsities == {"a": 0.1}
        assert recipe.learning_rate.scale == {"a": 0.2}


class TestNumbers:
    @pytest.mark.parametrize(
        ("override", "found"),
        [
            ("learning_rate.peak=1e-4", 1e-4),
            ("learning_rate.peak=1e0", 1.0),
            ("pruning.sparsity=5e-1", 0.5),
            ("budget.batch=1e2", 100),
            ("pruning.every=1e1", Span(10.0, "steps")),
            ("pruning.every=1e1 epochs", Span(10.0, "epochs")),
        ],
    )
    def test_an_exponent_is_read_everywhere(self, override: str, found: object) -> None:
        key = override.partition("=")[0]
        section, _, name = key.partition(".")
        assert getattr(getattr(load_recipe("glue-90", [override]), section), name) == found

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("budget.batch=true", "budget.batch: value True: must be a valid integer"),
            ("budget.batch='32'", "budget.batch: value '32': must be a valid integer"),
            ("budget.batch=8.5", "budget.batch: value 8.5: must be a valid integer"),
            ("pruning.sparsity='0.5'", "pruning.sparsity: value '0.5': must be a valid number"),
            ("pruning.sparsity=true", "pruning.sparsity: value True: must be a valid number"),
            ("pruning.sparsities={a: true}", "pruning.sparsities.a: value True: must be a valid number"),
            ("optimizer.betas=['0.9', 0.99]", "optimizer.betas.0: value '0.9': must be a valid number"),
            ("distillation={teacher: t, temperature: '2'}", "distillation.temperature: value '2': write a number"),
            (
                "distillation={teacher: t, dtype: packed, kind: full}",
                "distillation: .*dtype packed is a form of kind topk, and kind is full: set kind: topk",
            ),
            ("distillation={teacher: t, temperature: true}", "distillation.temperature: value True: write a number"),
            ("tracking.wandb='true'", "tracking.wandb: value 'true': must be a valid boolean"),
            ("tracking.wandb=1", "tracking.wandb: value 1: must be a valid boolean"),
            ("task.label=5", "task.label: value 5: must be a valid string"),
            ("budget.batch=010", "override 'budget.batch=010': .* found '010', which YAML readers"),
            ("budget.epochs=1:30", "budget.epochs: value '1:30': must be a valid number"),
            ("tracking.wandb=yes", "found 'yes', which YAML readers"),
            ("budget.epochs=1e300", "budget.epochs: value 1e.300: must be less than or equal to 4294967295"),
            ("budget.epochs=1e400", "budget.epochs: value inf: must be"),
            ("timeout=1e300", "timeout: value 1e.300: must be less than"),
            ("seed=99999999999", "seed: value 99999999999: must be less than"),
            ("optimizer.eps=1e30", "optimizer.eps: value 1e.30: must be less than or equal to 1"),
            ("pruning.updates=100000000000000", "pruning.updates: value 100000000000000: must be less than"),
            (f"pruning.every=1{400 * '0'} epochs", "pruning.every: value '1000.*0 epochs': must be at most 4294967295"),
            (f"pruning.every=1{300 * '0'}", "pruning.every: value 1000.*: must be at most 4294967295"),
            ("distillation={teacher: t, temperature: 1e20}", "distillation.temperature: value .*: must be less than"),
            ("model.dropout=1.0", "^model.dropout: value 1.0: must be a number from 0 on and below 1, or `model`"),
            ("model.dropout=modell", "^model.dropout: value 'modell': must be a number from 0 on .*`model`"),
            ("model.dropout=true", "^model.dropout: value True: must be a number"),
            ("budget.batch=!!int ''", "override .*: not valid YAML: found the tag tag:yaml.org,2002:int"),
            ("pruning={sparsity: 0.5, sparsity: 0.6}", "override .*: found the key 'sparsity' twice"),
            (
                "learning_rate={dense: 5.0e-5, decay_factor: 0.1}",
                r"^learning_rate\.decay_factor: value 0\.1: has no effect without learning_rate\.decay_every",
            ),
            (
                "learning_rate={decay_every: 2 epochs, final: 0.2}",
                "learning_rate.final: value 0.2: .*decay_every, which is 2 epochs",
            ),
            (
                "learning_rate={decay_every: 2 epochs, hold: 5}",
                "learning_rate.hold: value 5: .*decay_every, which is 2 epochs",
            ),
            (f"task={1000 * '['}", "override .*: found more than 50 levels of nesting"),
        ],
    )  # fmt: skip
    def test_whatever_is_no_sensible_number_is_refused(self, override: str, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            load_recipe("glue-90", [override])
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("overrides", "dropout"),
        [
            ([], 0.0),
            (["pruning=null", "budget.epochs=1"], None),
            (["pruning=null", "budget.epochs=1", "distillation.teacher=t"], 0.0),
            (["model.dropout=model"], None),
            (["model.dropout=0.2"], 0.2),
            (["pruning=null", "budget.epochs=1", "model.dropout=0.2"], 0.2),
        ],
    )
    def test_a_run_that_prunes_or_is_distilled_has_no_dropout(
        self, overrides: list[str], dropout: float | None
    ) -> None:
        assert load_recipe("glue-90", overrides).dropout == dropout

    def test_a_dense_rate_counts_where_the_recipe_gives_no_peak(self) -> None:
        peak = load_recipe("glue-90", ["learning_rate.dense=2e-4"]).learning_rate.peak
        assert peak == pytest.approx(2e-4 * (1 + math.log(10)))
        message = (
            "learning_rate.dense: value 0.0002: has no effect .*peak, 0.0001: add learning_rate.peak=null"
        )
        with pytest.raises(UserError, match=message):
            load_recipe("gmp-glue", ["learning_rate.dense=2e-4"])

    @pytest.mark.parametrize("text", [r"a\0b", r"a\nb", r"a\e[2Jb", r"a\u202eb"])
    @pytest.mark.parametrize("field", ["output", "model.path", "tracking.group", "deepspeed"])
    def test_a_text_with_control_characters_is_refused(self, field: str, text: str) -> None:
        with pytest.raises(UserError, match=f"{field}: value .*: holds the control character"):
            load_recipe("glue-90", [f'{field}="{text}"'])


class TestTaskAlone:
    def test_a_name_and_overrides(self) -> None:
        task = load_task("sst2", ["validation=dev.csv", "max_length=64"])
        assert (task.name, task.validation, task.max_length) == ("sst2", "dev.csv", 64)

    def test_problems_name_the_key_as_it_was_typed(self) -> None:
        with pytest.raises(
            UserError, match=r"max_lenght: value 64: unknown key, did you mean 'max_length'\?"
        ):
            load_task("sst2", ["max_lenght=64"])


class TestProblems:
    """Each message has the dotted field, the value and the way out."""

    @pytest.mark.parametrize(
        ("override", "match"),
        [
            ("prunning.sparsity=0.5", r"prunning: value {'sparsity': 0.5}: unknown key, did you mean 'pruning'\?"),
            ("pruning.sparsty=0.5", r"pruning.sparsty: value 0.5: unknown key, did you mean 'sparsity'\?"),
            ("model.zzz=1", r"model.zzz: value 1: unknown key, use one of path, tokenizer"),
            ("pruning.sparsity=1.0", r"pruning.sparsity: value 1.0: must be less than 1"),
            ("pruning.sparsity=0", r"pruning.sparsity: value 0: must be greater than 0"),
            ("pruning.sparsity=.nan", r"pruning.sparsity: value nan: must be a finite number"),
            (
                "pruning.curve=cubik",
                r"pruning.curve: value 'cubik': there is no 'cubik': did you mean 'cubic'\? choose one of cubic, ",
            ),
            ("pruning.include=['']", r"pruning.include.0: value '': must have at least 1 character"),
            ("pruning.sparsities={a: 1.5}", r"pruning.sparsities.a: value 1.5: must be less than 1"),
            ("pruning.first=0.9", r"pruning.first: value 0.9: must be less than the target pruning.sparsity"),
            ("pruning.every=0", r"pruning.every: value 0: must be longer than zero"),
            ("pruning.every=2 days", r"pruning.every: value '2 days': write '500 steps', '2 epochs'"),
            ("pruning={sparsity: 0.5, updates: 3, every: 5}", r"pruning.every: value 5: leave out pruning.updates or"),
            ("pruning={sparsity: 0.5, start: 9, end: 9}", r"pruning.end: value 9: must be later than pruning.start"),
            ("pruning={sparsity: 0.5, curve: one-shot, end: 9}", r"pruning.end: value 9: one-shot has one mask update"),
            *(
                (
                    f"pruning={{sparsity: 0.5, curve: {curve}, first: 0.2}}",
                    rf"pruning.first: value 0.2: {curve} has the target",
                )
                for curve in ("constant", "alternating")
            ),
            ("pruning.updates=1", r"pruning.updates: value 1: must be greater than or equal to 2"),
            ("pruning=null", r"pruning: value None: no target sparsity .*: give budget.epochs or budget.steps"),
            ("budget={batch: 8, epochs: 1, steps: 5}", r"budget.steps: value 5: .*leave out budget.epochs or"),
            ("budget.micro_batch=5", r"budget.micro_batch: value 5: must divide budget.batch, which is 32"),
            ("budget={}", r"budget.batch: value missing: this field is required"),
            ("task.config=sst2", r"task.config: value 'sst2': .*give task.dataset too, or leave it out"),
            ("task={name: sst2, dataset: d, folder: f}", r"task.folder: value 'f': .*leave out task.dataset or this"),
            ("task={name: opus-100, pairs: [english]}", r"task.pairs.*english"),
            ("task={name: x, dataset: d, train: t}", r"task.train: value 't': .*leave out task.dataset or this"),
            ("tracking.eval_every=0", r"tracking.eval_every: value 0: must be longer than zero"),
            ("tracking=7", r"tracking: value 7: must be a section with keys of its own"),
            ("distillation={teacher: s, hardness: 2}", r"distillation.hardness: value 2: must be less than or equal"),
            ("name=../up", r"name: value '../up': must match pattern"),
        ],
    )  # fmt: skip
    def test_one_invalid_value_is_named_in_one_line(self, override: str, match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            load_recipe("glue-90", [override])
        assert "\n" not in str(caught.value)

    def test_all_invalid_values_are_named_at_once(self) -> None:
        with pytest.raises(UserError) as caught:
            load_recipe("glue-90", ["budget.batch=0", "pruning.first=0.99", "sed=1", "task.name=null"])
        problems = str(caught.value).split("; ")
        assert sorted(problem.split(":")[0] for problem in problems) == [
            "budget.batch",
            "pruning.first",
            "sed",
            "task.name",
        ]

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3
        )
    )
    def test_any_value_of_any_field_is_taken_or_refused_but_never_crashes(self, value: object) -> None:
        for field in (
            "seed",
            "pruning.sparsity",
            "pruning.every",
            "pruning.sparsities",
            "tracking.tags",
            "task",
        ):
            section, _, key = field.partition(".")
            values = {**MINIMAL, "pruning": {"sparsity": 0.5}}
            values[section] = {**values.get(section, {}), key: value} if key else value
            override = f"{section}={yaml.safe_dump(values[section], default_flow_style=True)}"
            with suppress(UserError):
                load_recipe("glue-90", [override])


class TestSchema:
    def test_every_field_is_documented(self) -> None:
        schema = recipe_schema()
        for section in (schema, *schema["$defs"].values()):
            *_, section = section.get("anyOf", [section])  # a number, or a section
            for name, field in section["properties"].items():
                assert "description" in field or "$ref" in field, name

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            (["distillation={teacher: other}"], 1.0),
            (["distillation={teacher: m}"], 2.0),
            (["distillation={teacher: other}", "model.start=fine-tuned"], 2.0),
            (["distillation={teacher: m}", "model.start=pretrained"], 1.0),
            (["distillation={teacher: other}", "model=null"], 1.0),
            (["distillation={teacher: m, temperature: 1.0}"], 1.0),
        ],
    )
    def test_the_temperature_defaults_to_that_of_the_start(
        self, overrides: list[str], expected: float, tmp_path: Path
    ) -> None:
        recipe = load_recipe(write(tmp_path, MINIMAL), overrides)
        assert (recipe.distillation.temperature.first, recipe.distillation.temperature.final) == (
            expected,
            expected,
        )
        again = tmp_path / "again.yaml"
        again.write_text(dump_recipe(recipe))
        assert load_recipe(str(again)) == recipe

    def test_spans_default_to_what_a_recipe_would_say(self) -> None:
        fields = recipe_schema()["$defs"]["Tracking"]["properties"]
        assert fields["eval_every"]["default"] == "1 epochs"

    def test_unknown_keys_are_errors_for_an_editor_too(self) -> None:
        assert recipe_schema()["additionalProperties"] is False

    def test_a_recipe_can_be_made_in_code(self) -> None:
        recipe = Recipe.model_validate({"name": "x", **MINIMAL})
        assert recipe.tracking.eval_every == Span(1.0, "epochs")
