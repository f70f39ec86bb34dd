"""The decoder GTS: trees against a recursion by hand, the search against all trees, and its model."""

from itertools import product

import pytest
import torch
from deepspeed.utils import get_z3_leaf_modules
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import RobertaConfig

from dsprune.model.gts import GtsForEquations
from dsprune.model.gts.decoder import ABSENT, TreeDecoder
from dsprune.model.gts.lstm import QuestionLSTM
from dsprune.model.prunable import choose_weights
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.build import build_task
from dsprune.zero.parameters import gather_whole

OPERATORS, WIDTH, LABEL_WIDTH, TOKENS, SLOTS, CONSTANTS = 4, 6, 5, 3, 2, 2
N0, N1, CONSTANT, OTHER = range(OPERATORS, OPERATORS + SLOTS + CONSTANTS)
PLUS, MINUS, TIMES, _ = range(OPERATORS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def decoder(dropout: float = 0.0) -> TreeDecoder:
    made = TreeDecoder(WIDTH, LABEL_WIDTH, operators=OPERATORS, constants=CONSTANTS, dropout=dropout)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.7)
    return made.eval()


def questions(count: int) -> tuple[torch.Tensor, ...]:
    """Words, goals of the roots, and the masks of words and slots."""
    words, goal, slots = (torch.randn(count, *shape, WIDTH) for shape in ((TOKENS,), (), (SLOTS,)))
    return words, goal, torch.ones(count, TOKENS).bool(), slots, torch.ones(count, SLOTS).bool()


def by_recursion(made: TreeDecoder, question: tuple[torch.Tensor, ...], tree: list[int]) -> torch.Tensor:
    """The logits of each node of one tree, by the equations of the paper, without stacks."""
    words, root, _, slots, _ = question
    leaves = torch.cat([slots, made.constants.weight[None]], dim=1)
    rows, classes = [], iter(tree)

    def visit(goal: torch.Tensor, left: torch.Tensor | None) -> torch.Tensor:
        node = made.first(goal) if left is None else made.right(left, goal)
        context = torch.softmax(made.attention(node, words), dim=-1) @ words[0]
        summary = torch.cat([node, context], dim=-1)
        rows.append(torch.cat([made.operator_scores(summary), made.leaf_scores(summary, leaves)], dim=-1))
        chosen = next(classes)
        if chosen >= OPERATORS:
            return leaves[:, chosen - OPERATORS]
        operator = made.operators(torch.tensor([chosen]))
        left = visit(made.left_goal(node, context, operator), None)
        right = visit(made.right_goal(node, context, operator), left)
        return made.merge(operator, left, right)

    visit(root, None)
    return torch.cat(rows)


TREES = [
    [N0],
    [PLUS, N0, N1],
    [MINUS, TIMES, N0, CONSTANT, N1],
    [MINUS, N1, TIMES, N0, CONSTANT],
    [PLUS, TIMES, N0, MINUS, N1, OTHER, TIMES, MINUS, N1, N0, N1],
]


def test_logits_are_those_of_the_recursion_for_trees_of_one_batch():
    made, batch = decoder(), questions(len(TREES))
    longest = max(map(len, TREES))
    labels = torch.tensor([[*tree, *[-100] * (longest - len(tree))] for tree in TREES])
    logits = made(*batch, labels, 1, 1)
    for place, tree in enumerate(TREES):
        one = tuple(part[place : place + 1] for part in batch)
        torch.testing.assert_close(logits[place, : len(tree)], by_recursion(made, one, tree))


def test_three_nodes_by_hand():
    """All weights except biases are zero: every gate is a half, so all goals, nodes and scores are known."""
    made = decoder()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.fill_(1.0 if name == "right.value.bias" else 0.0)
        made.operator_scores.weight[PLUS, :WIDTH] = 1.0
    logits = made(*questions(1), torch.tensor([[PLUS, N0, N1]]), 1, 1)[0]
    # The root and the left child are tanh(0) / 2 in each of six entries, the right child tanh(1) / 2; PLUS sums them.
    sums = [0.0, 0.0, WIDTH * torch.tensor(1.0).tanh().item() / 2]
    assert logits[:, PLUS].tolist() == pytest.approx(sums)
    assert logits[:, MINUS:].abs().max() == 0


class Forced(TreeDecoder):
    """Predicts known trees with certainty."""

    gold: torch.Tensor
    place = 0

    def predict(self, walk, question):
        node, context, logits = super().predict(walk, question)
        gold, self.place = self.gold[:, self.place, None], self.place + 1
        return node, context, torch.zeros_like(logits).scatter(1, gold, 50.0)


def test_forced_trees_end_where_they_are_complete():
    made = Forced(WIDTH, LABEL_WIDTH, operators=OPERATORS, constants=CONSTANTS, dropout=0.0)
    made.gold = torch.tensor([[*tree, *[PLUS] * (12 - len(tree))] for tree in TREES])
    found = made(*questions(len(TREES)), None, 1, 12)
    assert [[one for one in tree if one >= 0] for tree in found.tolist()] == TREES


def is_complete(classes: tuple[int, ...]) -> bool:
    return sum(1 if one < OPERATORS else -1 for one in classes) == -1


def test_a_wide_beam_finds_the_best_of_all_trees():
    made, question = decoder(), questions(1)
    known = range(OTHER)  # the class of unknown constants is not an answer
    trees = sorted(
        {
            next((classes[:n] for n in (1, 3) if is_complete(classes[:n])), classes)
            for classes in product(known, repeat=3)
        }
    )
    labels = torch.tensor([[*tree, *[-1] * (3 - len(tree))] for tree in trees])
    every = tuple(part.expand(len(trees), *part.shape[1:]) for part in question)
    scores = made(*every, labels, 1, 1)[..., :OTHER].log_softmax(dim=-1)
    of_labels = scores.gather(2, labels.clamp(min=0)[..., None]).squeeze(-1)
    best = torch.where(labels >= 0, of_labels, 0.0).sum(dim=1).argmax()
    [found] = made(*question, None, 200, 3)
    assert torch.equal(found, labels[best])


def test_one_beam_takes_the_best_class_at_each_node():
    made, batch = decoder(), questions(8)
    found = made(*batch, None, 1, 5)
    best = made(*batch, found, 1, 1)[..., :OTHER].argmax(dim=-1)
    assert torch.equal(best[found >= 0], found[found >= 0])


def test_slots_that_a_question_lacks_are_never_found():
    made, (words, goal, is_word, slots, has_slot) = decoder(), questions(8)
    has_slot[:, 1] = False
    assert (
        made(words, goal, is_word, slots, has_slot, torch.tensor([[N0]] * 8), 1, 1)[..., N1] == ABSENT
    ).all()
    assert (made(words, goal, is_word, slots, has_slot, None, 3, 7) != N1).all()


def test_every_parameter_has_a_gradient_even_where_no_equation_has_an_operator():
    made = decoder()
    made(*questions(2), torch.tensor([[N0], [N1]]), 1, 1).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.fixture(scope="module")
def published() -> GtsForEquations:
    config = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        return build_task(TaskSettings(name="svamp", decoder="gts")).new_model(config)


def test_the_weights_are_those_of_the_published_layers(published):
    """Over RoBERTa-base's 124,645,632: SVAMP's code, with a width of 512 and labels as wide as the encoder."""
    wide, width, constants, slots = 768, 512, 1, 0

    def linear(inputs: int, outputs: int = width, bias: int = 1) -> int:
        return (inputs + bias) * outputs

    lstm = sum(2 * 4 * width * (inputs + width + 2) for inputs in (wide, 2 * width))
    predict = 2 * linear(width) + 2 * linear(2 * width) + linear(2 * width, 4)
    predict += linear(2 * width) + linear(width, 1)  # attention
    predict += linear(3 * width) + linear(width, 1, bias=0) + (constants + slots) * width  # leaves
    generate, merge = 4 * linear(2 * width + wide) + 4 * wide, 2 * linear(2 * width + wide)
    total = sum(parameter.numel() for parameter in published.parameters())
    assert total == 124_645_632 + lstm + predict + generate + merge
    assert round(total / 1e6) == 145


def test_encoder_blocks_are_pruned_and_the_rest_on_request(published):
    assert all(
        tensor.name.startswith("encoder.encoder.layer.") for tensor in choose_weights(published).tensors
    )
    added = choose_weights(published, include=["lstm.weight*", "decoder.*weight"]).tensors
    names = [tensor.name for tensor in added if not tensor.name.startswith("encoder.")]
    assert {"lstm.weight_ih_l0", "lstm.weight_hh_l1_reverse", "decoder.merge.gate.weight"} <= set(names)
    assert not any("bias" in name for name in names)


def test_zero_gathers_the_decoder_as_a_whole(published):
    gather_whole(published)
    assert get_z3_leaf_modules(published) == [published.decoder]


def test_the_lstm_reads_padded_questions_as_torch_reads_packed_ones():
    lstm = QuestionLSTM(LABEL_WIDTH, WIDTH, 2, dropout=0.0)
    lengths, words = torch.tensor([2, 4, 1]), torch.randn(3, 4, LABEL_WIDTH)
    packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
    states, (last, _) = nn.LSTM.forward(lstm, packed)
    states = pad_packed_sequence(states, batch_first=True)[0]
    found, goal = lstm(words, torch.arange(4) < lengths[:, None])
    torch.testing.assert_close(found, states[..., :WIDTH] + states[..., WIDTH:])
    torch.testing.assert_close(goal, last[-2] + last[-1])


def test_the_lstm_drops_inputs_of_the_second_layer_in_training_only():
    lstm, words = QuestionLSTM(LABEL_WIDTH, WIDTH, 2, dropout=0.5), torch.randn(1, 3, LABEL_WIDTH)
    is_word = torch.ones(1, 3).bool()
    assert not torch.equal(lstm(words, is_word)[0], lstm(words, is_word)[0])
    lstm.eval()
    assert torch.equal(lstm(words, is_word)[0], lstm(words, is_word)[0])
