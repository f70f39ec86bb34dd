"""Translation in one or several directions between languages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, concatenate_datasets
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from dsprune.errors import UserError
from dsprune.model.fit import check_keeps_head
from dsprune.model.pretrained import load_config, load_model
from dsprune.recipe import Task as TaskSettings
from dsprune.tasks.data_files import read_parallel, sentences
from dsprune.tasks.rows import Column
from dsprune.tasks.seq2seq import Seq2Seq
from dsprune.tasks.source import Benchmark, HubData, Part, Split, read_rows
from dsprune.tasks.task import Task

__all__ = ["LANGUAGE_CODES", "TRANSLATION", "Translation"]

GENERATIVE = ("ForConditionalGeneration", "MTModel")
"""Suffixes of the names of model classes that generate: those of most families, and Marian's."""

LANGUAGE_CODES: Mapping[str, str] = {code[:2]: code for code in FAIRSEQ_LANGUAGE_CODES}
"""mBART-50's codes, by language."""

BLEU_TOKENIZERS = {"zh": "zh", "ja": "char", "km": "char", "my": "char", "th": "char"}
"""sacrebleu's tokenizers for languages without spaces; the others have `13a`."""

OPUS_SIZES = dict.fromkeys(("cs", "de", "fr", "ja", "ro", "ru"), 1_000_000) | {"gu": 318_306, "my": 24_594}
"""Training examples of OPUS-100 for English and each of these languages."""


@dataclass(frozen=True)
class Translation(Seq2Seq):
    """Translation: input is a sentence of one language, output one of another, in the directions of `task.pairs`.

    If the tokenizer has mBART-50's language codes, inputs and outputs are `code tokens </s>`, and the decoder is given
    the code of the output. Several directions can then be trained and tested together.

    Attributes:
        tokenizer: decodes predictions; set by `for_tokenizer`.
        benchmark_of: returns the published data set of a direction; None = any data.
    """

    settings: TaskSettings
    tokenizer: PreTrainedTokenizerBase | None = None
    benchmark_of: Callable[[str], Benchmark] | None = None

    uses = ("pairs", *Seq2Seq.uses)
    only_for_score = ("pair", "reference")

    @property
    def num_given(self) -> int:  # type: ignore[override]
        """1 if outputs begin with a language code, otherwise 0."""
        return int(self.tokenizer is not None and self._codes(self.tokenizer) is not None)

    @property
    def benchmark(self) -> Benchmark | None:  # type: ignore[override]
        """The published data set of the first direction."""
        return next(iter(self.benchmarks), None)

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """The published data sets: one for each pair of languages, in either direction."""
        if self.benchmark_of is None:
            return ()
        by_title = {benchmark.title: benchmark for benchmark in map(self.benchmark_of, self._pairs)}
        return tuple(by_title.values())

    def for_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> "Translation":
        """Return this task with the tokenizer, for `predict` and `score`."""
        return replace(self, tokenizer=tokenizer)

    def columns(self) -> tuple[Column, ...]:
        """Return the columns of the languages."""
        languages = dict.fromkeys(language for pair in self._pairs for language in pair.split("-"))
        return tuple(Column(language, f"the sentence in the language {language!r}") for language in languages)

    def load(self, split: Split) -> Dataset:
        """Read the sentences of all directions, one direction after the other."""
        return concatenate_datasets([self._load(split, pair) for pair in self._pairs])

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, rows: Mapping[str, list[Any]]
    ) -> dict[str, list[Any]]:
        """Tokenize both sentences, each after its language's code if the tokenizer has codes."""
        directions = [pair.split("-") for pair in rows["pair"]]
        codes = self._codes(tokenizer)
        settings = self.settings
        sources, targets = zip(*directions, strict=True)
        inputs = _tokens(tokenizer, rows["source"], settings.max_length, codes, sources)
        labels = _tokens(tokenizer, rows["reference"], settings.max_target, codes, targets, target=True)
        return {
            "input_ids": inputs,
            "attention_mask": [[1] * len(ids) for ids in inputs],
            "labels": labels,
            "length": list(map(len, inputs)),
            **{name: rows[name] for name in self.only_for_score},
        }

    def build_model(
        self, path: str, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = True
    ) -> PreTrainedModel:
        """Open the model, which must have been trained to generate."""
        del new_head  # the layer over the vocabulary is never new
        check_keeps_head()
        config = load_config(path)
        if not any(name.endswith(GENERATIVE) for name in config.architectures or ()):
            raise UserError(
                f"model {path!r}: does not generate text: choose an encoder-decoder model, such as mBART-50"
            )
        longest = max(self.settings.max_length, self.settings.max_target)
        model = load_model(AutoModelForSeq2SeqLM, path, tokenizer, longest)
        if model.config.decoder_start_token_id is None:  # as in the training of mBART's decoder
            model.config.decoder_start_token_id = tokenizer.eos_token_id
        return model

    def new_model(self, config: PretrainedConfig) -> PreTrainedModel:
        """Return the model."""
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config)
        return model

    def score(self, predictions: Sequence[Sequence[int]], dataset: Dataset) -> dict[str, float]:
        """Return BLEU by sacrebleu, 0 to 100: the mean over directions, and that of each direction."""
        assert self.tokenizer is not None, "call for_tokenizer before score"
        texts = self.tokenizer.batch_decode(
            [[token for token in tokens if token >= 0] for tokens in predictions], skip_special_tokens=True
        )
        by_pair: dict[str, tuple[list[str], list[str]]] = {}
        for pair, text, reference in zip(dataset["pair"][:], texts, dataset["reference"][:], strict=True):
            translations, references = by_pair.setdefault(pair, ([], []))
            translations.append(text)
            references.append(reference)
        scores = {pair: _bleu(pair.split("-")[1], *both) for pair, both in by_pair.items()}
        return {
            "bleu": sum(scores.values()) / len(scores),
            **{f"bleu_{pair}": score for pair, score in scores.items()},
        }

    @property
    def _pairs(self) -> tuple[str, ...]:
        if not self.settings.pairs:
            raise UserError(
                "task.pairs: value missing: translation needs its directions, such as [en-de, de-en]"
            )
        if same := [pair for pair in self.settings.pairs if len(set(pair.split("-"))) == 1]:
            raise UserError(
                f"task.pairs: value {same[0]}: translates a language into itself: write another pair"
            )
        if repeated := [pair for pair in self.settings.pairs if self.settings.pairs.count(pair) > 1]:
            raise UserError(
                f"task.pairs: value {repeated[0]}: its examples would count {len(repeated)} times: write it once"
            )
        return self.settings.pairs

    def _load(self, split: Split, pair: str) -> Dataset:
        source, target = pair.split("-")
        rows = read_rows(
            self.settings,
            split,
            self.benchmark_of(pair) if self.benchmark_of else None,
            lambda path, origin, header: read_parallel(path, origin, (source, target)),
        )
        inputs, outputs = sentences(rows, source), sentences(rows, target)
        return Dataset.from_dict({"source": inputs, "reference": outputs, "pair": [pair] * len(rows)})

    def _codes(self, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, int] | None:
        """Return the code of each language as a token; None for a single direction without any codes.

        Raises:
            UserError: the tokenizer lacks some codes, or all codes and there are several directions.
        """
        vocabulary = tokenizer.get_vocab()
        languages = sorted({language for pair in self._pairs for language in pair.split("-")})
        known = {
            language: vocabulary[LANGUAGE_CODES[language]]
            for language in languages
            if LANGUAGE_CODES.get(language) in vocabulary
        }
        if len(known) == len(languages):
            return known
        if known or len(self._pairs) > 1:
            missing = ", ".join(language for language in languages if language not in known)
            raise UserError(
                f"task.pairs: the model's tokenizer has no code for {missing}: choose an mBART-50 model and "
                "languages that it has, or a single pair and a model for that pair"
            )
        return None


def _tokens(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    max_length: int,
    codes: Mapping[str, int] | None,
    languages: Sequence[str],
    *,
    target: bool = False,
) -> list[list[int]]:
    """Tokenize texts with special tokens: mBART-50's `code tokens </s>`, or those of the tokenizer."""
    if codes is None:
        which = {"text_target": texts} if target else {"text": texts}
        numbers: list[list[int]] = tokenizer(**which, truncation=True, max_length=max_length)["input_ids"]
        return numbers
    plain = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [
        [codes[language], *ids[: max_length - 2], int(tokenizer.eos_token_id)]
        for language, ids in zip(languages, plain, strict=True)
    ]


def _bleu(language: str, translations: list[str], references: list[str]) -> float:
    import sacrebleu

    tokenize = BLEU_TOKENIZERS.get(language, "13a")
    return sacrebleu.corpus_bleu(translations, [references], tokenize=tokenize).score


def _opus_100(pair: str) -> Benchmark:
    """Return the data set of a direction. Both directions share one pair of files, named in alphabetical order."""
    corpus = "-".join(sorted(pair.split("-")))
    other = corpus.replace("en", "", 1).strip("-")
    folder = f"supervised/{corpus}/opus.{corpus}"
    return Benchmark(
        title=f"OPUS-100, {corpus}",
        source="https://opus.nlpl.eu/OPUS-100, folder opus-100-corpus/v1.0 of the archives",
        licence="that of each source in OPUS; the collection states none",
        parts={
            "train": Part(f"{folder}-train", OPUS_SIZES.get(other)),
            "validation": Part(f"{folder}-dev", 2_000),
        },
        hub=HubData("Helsinki-NLP/opus-100", corpus),
    )


def _opus(settings: TaskSettings) -> Task:
    return Translation(settings, benchmark_of=_opus_100)


TRANSLATION: Mapping[str, Callable[[TaskSettings], Task]] = {"translation": Translation, "opus-100": _opus}
