"""Documents, and questions whose right answers are known: a BEIR folder, or the demo's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..retriever.errors import InvalidInput
from ..retriever.types import Document
from .ingest import parse_document

HEADERS = {"query-id", "query_id"}  # the header of a qrels file begins with one of them


@dataclass(frozen=True, slots=True)
class Question:
    """A query in a person's words and the ids of the documents that answer it."""

    text: str
    right: frozenset[str]


@dataclass(frozen=True, slots=True)
class Collection:
    documents: list[Document]
    questions: list[Question]


def read_beir(folder: Path) -> Collection:
    """`corpus.jsonl`, `queries.jsonl` and all of `qrels/*.tsv`; queries without a right document are left out.

    Raises InvalidInput with file and line.
    """
    files = sorted((folder / "qrels").glob("*.tsv"))
    if not files:
        raise InvalidInput("DIR", str(folder), "it holds no qrels/*.tsv; name a BEIR folder")
    documents = read_documents(folder)
    return Collection(documents, _questions(folder, files, documents))


def read_split(folder: Path, split: str, documents: Sequence[Document]) -> list[Question]:
    """The questions of `qrels/SPLIT.tsv` that some of the documents answer. Raises InvalidInput with file and line."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))) or "none"
        raise InvalidInput("split", split, f"{folder / 'qrels'} holds {known}; name one that is there")
    found = _questions(folder, [path], documents)
    if not found:
        raise InvalidInput("split", split, f"no line of {path} names a query and a document of the folder")
    return found


def read_documents(folder: Path) -> list[Document]:
    """`corpus.jsonl`. Raises InvalidInput with file and line."""
    return [_document(where, line) for where, line in _lines(folder / "corpus.jsonl")]


def check_writable(path: Path) -> None:
    """Before the work whose figures go there. Raises InvalidInput."""
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise InvalidInput("--json", str(path), f"it cannot be written ({error.strerror})") from None


def _questions(folder: Path, files: Sequence[Path], documents: Sequence[Document]) -> list[Question]:
    texts = dict(_query(where, line) for where, line in _lines(folder / "queries.jsonl"))
    known = {document.id for document in documents}
    right: dict[str, set[str]] = {}
    for where, line in (item for file in files for item in _lines(file)):
        query, document, grade = _qrel(where, line.decode(errors="replace").rstrip("\n").split("\t"))
        if grade > 0 and query in texts and document in known:
            right.setdefault(query, set()).add(document)
    return [Question(text, frozenset(right[id_])) for id_, text in texts.items() if id_ in right]


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each with its file and number, for whoever finds a fault in it."""
    try:
        with path.open("rb") as file:
            yield from ((f"{path}, line {number}", line) for number, line in enumerate(file, 1) if line.strip())
    except OSError as error:
        raise InvalidInput("DIR", str(path), f"it cannot be read ({error.strerror}); name a BEIR folder") from None


def _document(where: str, line: bytes) -> Document:
    try:
        return parse_document(line)
    except InvalidInput as error:
        raise InvalidInput(where, line.decode(errors="replace").strip(), str(error)) from None


def _query(where: str, line: bytes) -> tuple[str, str]:
    try:
        value: Any = orjson.loads(line)
        return str(value["_id"]), str(value["text"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InvalidInput(where, line.decode(errors="replace").strip(), 'give {"_id": …, "text": …}') from None


def _qrel(where: str, fields: list[str]) -> tuple[str, str, float]:
    """Of a line of three columns, or of TREC's four; the header says nothing."""
    if fields[0] in HEADERS:
        return "", "", 0.0
    try:
        return fields[0], fields[-2], float(fields[-1])
    except (IndexError, ValueError):
        raise InvalidInput(where, "\t".join(fields), "give query-id, corpus-id and score, separated by tabs") from None
