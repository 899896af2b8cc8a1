"""What all tests share: an empty database and a tiny model. No test reaches a network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from clickloop.retriever.database import Database

os.environ["HF_HUB_OFFLINE"] = "1"

QDRANT_URL = "CLICKLOOP_TEST_QDRANT_URL"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = [
    "a",
    "an",
    "and",
    "as",
    "at",
    "in",
    "is",
    "list",
    "map",
    "of",
    "or",
    "string",
    "sort",
    "split",
    "the",
    "that",
    "to",
    "with",
]

settings.register_profile(
    "clickloop",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("clickloop")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what this run did not show."""
    if QDRANT_URL not in os.environ:
        terminalreporter.write_line(
            f"Qdrant server adapter: tested against the client's in-memory mode; set {QDRANT_URL} to test a server",
            yellow=True,
        )
    skipped = terminalreporter.stats.get("skipped", [])
    for reason in sorted({str(report.longrepr[2]) for report in skipped if isinstance(report.longrepr, tuple)}):
        terminalreporter.write_line(reason, yellow=True)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'clickloop.db'}")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random BERT sentence encoder: 32 dimensions, 32 tokens, letters as its vocabulary."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS), *(word for word in WORDS if len(word) > 1)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, mask_token="[MASK]", model_max_length=32, **roles
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.5,  # so that different texts get clearly different vectors
    )
    plain = tmp_path_factory.mktemp("bert")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        bert = BertModel(config)
        for parameter in bert.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=1e-3)  # an export merges weights that are equal
        bert.save_pretrained(plain)
    wrapped.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=32)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    SentenceTransformer(
        modules=[transformer, Pooling(config.hidden_size, pooling_mode="mean"), Normalize()], device="cpu"
    ).save(str(folder))
    return folder
