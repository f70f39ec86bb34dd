"""Graph2Tree: the graphs of a question by hand, the graph encoder against sums over neighbours, and its model."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, RobertaConfig

from dsprune.errors import UserError
from dsprune.model.gts import Graph2TreeConfig, Graph2TreeForEquations
from dsprune.model.gts.graphs import HEADS, GraphEncoder, quantity_graphs
from dsprune.model.prunable import choose_weights
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.tasks.equation_graphs import first_tokens, ranks_of, word_places
from dsprune.tasks.task import Task
from dsprune.testing.kinds import models
from dsprune.testing.kinds.kind import table

ROW = {
    "Question": "tom has number0 red balls and number1 balls . how many balls ?",
    "Numbers": "3 8",
    "Equation": "+ number0 number1",
    "group_nums": "[2, 3, 4, 6, 7, 11]",
}
TOKENIZER = models.word_piece([ROW["Question"].replace("balls", "ball")])  # balls is two tokens, ball ##s
SETTINGS = {"decoder": "graph2tree", "decoder_size": 8, "max_length": 40}


def task_on(tmp_path: Path, *rows: dict[str, str], **settings: object) -> Task:
    train = table(tmp_path / "train.csv", rows)
    return build_task(TaskSettings(name="equation-generation", train=train, **{**SETTINGS, **settings}))


def edges(graph: torch.Tensor) -> set[tuple[int, int]]:
    """The pairs of different tokens of a graph, rows first."""
    return {(row, column) for row, column in graph.nonzero().tolist() if row != column}


def both_ways(*pairs: tuple[int, int]) -> set[tuple[int, int]]:
    return {*pairs, *((last, first) for first, last in pairs)}


def graphs_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    names = ("input_ids", "word_index", "in_cell", "ranks")
    return quantity_graphs(*(batch[name] for name in names), batch["attention_mask"].bool())


def test_the_graphs_of_a_question_by_hand(tmp_path: Path) -> None:
    task = task_on(tmp_path, ROW, {**ROW, "Question": "number0 and number1", "group_nums": "[0, 1, 9]"})
    data = task.prepare("train", TOKENIZER)
    tokens = "[CLS] tom has [MASK] red ball ##s and [MASK] ball ##s . how many ball ##s ? [SEP]"
    assert TOKENIZER.convert_ids_to_tokens(data["input_ids"][0]) == tokens.split()
    graphs = graphs_of(task.collate(TOKENIZER)(list(data)))
    first, red, ball, second, ball_of_second, ball_asked = 3, 4, 5, 8, 9, 14
    assert edges(graphs[0, 0]) == {(second, first)}  # 8 is greater than 3
    assert edges(graphs[0, 1]) == both_ways(
        *((first, word) for word in (red, ball)),
        *((second, word) for word in (red, ball, ball_of_second)),  # red is three words before
        (first, second),  # equal tokens, like the balls
        *((ball, ball_of_second), (ball, ball_asked), (ball_of_second, ball_asked)),
    )
    assert edges(graphs[1, 0]) == {(3, 1)}
    # The second number is in no cell, but its word is near.
    assert edges(graphs[1, 1]) == both_ways((1, 2), (3, 2))
    assert torch.equal(graphs.diagonal(dim1=2, dim2=3).sum(dim=-1), torch.tensor([[18, 18], [5, 5]]))


def test_equal_numbers_read_each_other() -> None:
    ranks = torch.tensor([[1, -1, 0, 1]])
    graphs = quantity_graphs(ranks, ranks, torch.zeros(1, 4), ranks, torch.ones(1, 4).bool())
    assert edges(graphs[0, 0]) == {(0, 2), (3, 2), (0, 3), (3, 0)}


def test_places_of_words_whatever_the_tokenizer_does_with_spaces() -> None:
    text = "two  red balls"
    assert word_places(text, [(0, 0), (0, 3), (3, 5), (5, 8), (8, 14), (0, 0)]) == [-1, 0, 0, 1, 2, -1]
    assert word_places(text, [(0, 3), (4, 4), (5, 8), (9, 12), (12, 14)]) == [0, -1, 1, 2, 2]
    assert first_tokens([-1, 0, 0, 1, 2, 2, -1], [0, 2, 7]) == [0, 1, 0, 0, 1, 0, 0]
    assert ranks_of([-1, 1, 0, 2, 3], [5.0, 2.5, 5.0]) == [-1, 0, 1, 1, -1]


def test_the_encoder_sums_over_neighbours() -> None:
    """Against sums over the neighbours of each token, one at a time."""
    torch.manual_seed(0)
    made, words = GraphEncoder(8, dropout=0.0), torch.randn(1, 5, 8)
    graphs = torch.rand(1, 2, 5, 5) < 0.5

    def convolve(layer: torch.nn.Module, states: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [layer(sum(states[graph[token]], torch.zeros(states.shape[1]))) for token in range(5)]
        )

    heads = []
    for head in range(HEADS):
        graph = graphs[0, head // 2]
        hidden = convolve(made.first[head], words[0], graph).relu()
        heads.append(convolve(made.second[head], hidden, graph))
    read = words[0] + made.norm(torch.cat(heads, dim=1))
    expected = read + made.output(made.intermediate(read).relu())
    torch.testing.assert_close(made(words, graphs)[0], expected)


def small_model() -> Graph2TreeForEquations:
    torch.manual_seed(0)
    encoder = BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=32, **models.SIZES)
    config = Graph2TreeConfig(encoder=encoder.to_dict(), decoder_size=8, num_slots=2)
    return Graph2TreeForEquations(config).eval()


def test_padding_changes_nothing(tmp_path: Path) -> None:
    task = task_on(tmp_path, ROW, {**ROW, "Question": "number0 and number1", "group_nums": "[0, 1]"})
    model, collate, data = small_model(), task.collate(TOKENIZER), list(task.prepare("train", TOKENIZER))
    together = model(**collate(data)).logits
    for place, one in enumerate(data):
        torch.testing.assert_close(model(**collate([one])).logits[0], together[place])


def test_the_graphs_are_read(tmp_path: Path) -> None:
    """The model sees which number is greater, although the question has slots instead of numbers."""
    task = task_on(tmp_path, ROW, {**ROW, "Numbers": "8 3"}, {**ROW, "group_nums": "[2, 6]"})
    data = task.prepare("train", TOKENIZER)
    logits = small_model()(**task.collate(TOKENIZER)(list(data))).logits
    assert all(not torch.allclose(logits[0], other) for other in logits[1:])
    # Three rows of a teacher's store.
    assert len(set(map(str, zip(*task.samples(data).values(), strict=True)))) == 3


@pytest.fixture(scope="module")
def published() -> Graph2TreeForEquations:
    config = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        return build_task(TaskSettings(name="svamp", decoder="graph2tree")).new_model(config)


def test_the_weights_are_those_of_the_published_layers(published: Graph2TreeForEquations) -> None:
    """Over RoBERTa-base's 124,645,632: the benchmark's code, with a width of 384 and labels as wide as the encoder."""
    wide, width, constants = 768, 384, 1

    def linear(inputs: int, outputs: int = width, bias: int = 1) -> int:
        return (inputs + bias) * outputs

    lstm = sum(2 * 4 * width * (inputs + width + 2) for inputs in (wide, 2 * width))
    graph = 4 * (linear(width) + linear(width, width // 4)) + 2 * linear(width) + 2 * width
    predict = 2 * linear(width) + 2 * linear(2 * width) + linear(2 * width, 4) + constants * width
    predict += linear(2 * width) + linear(width, 1) + linear(3 * width) + linear(width, 1, bias=0)
    generate, merge = 4 * linear(2 * width + wide) + 4 * wide, 2 * linear(2 * width + wide)
    total = sum(parameter.numel() for parameter in published.parameters())
    assert total == 124_645_632 + lstm + graph + predict + generate + merge
    assert round(total / 1e5) == 1379


def test_the_matrices_of_the_graph_encoder_are_pruned_on_request(published: Graph2TreeForEquations) -> None:
    names = [tensor.name for tensor in choose_weights(published).tensors]
    assert all(name.startswith("encoder.encoder.layer.") for name in names)
    every = ["*embeddings*.weight", "lstm.weight*", "graph.*.weight", "decoder.*.weight"]
    dense = ["*LayerNorm*", "graph.norm.*", "decoder.merge.*", "decoder.constants.*"]
    counted = {tensor.name for tensor in choose_weights(published, include=every, exclude=dense).tensors}
    matrices = {name for name, weight in published.named_parameters() if weight.dim() > 1}
    assert {name for name in matrices - counted if "merge" not in name and "constants" not in name} == {
        "encoder.pooler.dense.weight"
    }
    assert counted < matrices
    added = choose_weights(published, only=["graph.*"]).tensors
    assert [tensor.name for tensor in added] == [
        *(f"graph.{layer}.{head}.weight" for layer in ("first", "second") for head in range(HEADS)),
        "graph.intermediate.weight",
        "graph.output.weight",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_nums": "[2, -1]"}, r"train\.csv: row 1: '\[2, -1\]' in column 'group_nums' is not the words in"),
        ({"group_nums": "2 3"}, r"train\.csv: row 1: '2 3' in column 'group_nums' is not the words in"),
        ({"group_nums": "3"}, r"train\.csv: row 1: '3' in column 'group_nums' is not the words in"),
        ({"group_nums": "[true]"}, r"train\.csv: row 1: '\[true\]' in column 'group_nums' is not the words in"),
        ({"group_nums": "[1.5]"}, r"train\.csv: row 1: '\[1.5\]' in column 'group_nums' is not the words in"),
        ({"group_nums": ""}, r"train\.csv: row 1: no value in column 'group_nums'"),
    ],
)  # fmt: skip
def test_quantity_cells_that_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task_on(tmp_path, {**ROW, **change}).load("train")


def test_data_without_quantity_cells_are_refused(tmp_path: Path) -> None:
    without = {name: value for name, value in ROW.items() if name != "group_nums"}
    with pytest.raises(
        UserError, match=r"train\.csv: no column 'group_nums': .*graph2tree.*set task\.decoder: gts$"
    ):
        task_on(tmp_path, without).load("train")


def test_words_behind_the_end_are_left_out_and_listed(tmp_path: Path) -> None:
    beyond = {**ROW, "group_nums": "[2, 3, 13]"}
    task = task_on(tmp_path, ROW, beyond)
    assert [remark for remark in task.remarks("train") if "row" in remark] == [
        "group_nums names words after the end of the question, which are left out, in 1 of 2 rows, first in row 2"
    ]
    assert sum(task.prepare("train", TOKENIZER)[1]["in_cell"]) == 2


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^task\.decoder_size: 10: graph2tree has 4 heads: give a multiple of 4$"
    ):
        GraphEncoder(10, dropout=0.0)


def test_a_tokenizer_that_gives_no_positions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^model\.tokenizer: Esm\w+ does not return .*graph2tree needs a fast"
    ):
        task_on(tmp_path, ROW).prepare("train", models.amino_acids(tmp_path))
