"""Golden judgments: graded relevant documents of queries that an admin vouches for.

Either a CSV file with a header (query, document_id, relevance), or TREC qrels with a file of the queries' texts. The
files are read anew every night. Whatever cannot be understood is an error: a judgment passed over in silence would be
a guard that nobody keeps.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import numpy.typing as npt
import orjson
from ir_measures import Qrel, ScoredDoc, nDCG

from ..retriever.errors import InvalidInput
from .recipe import GoldenFiles
from .snapshot import cluster_of

COLUMNS = (("query", "query_text"), ("document_id", "doc_id"), ("relevance", "grade"))  # each with a common other name
MAX_GRADE = 100  # trec_eval makes a table as long as the highest grade
_NDCG = nDCG @ 10
_Row = tuple[int, str, str, str]  # line, query or its id, document id, grade
Find = Callable[[Sequence[str]], Sequence[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Golden:
    """`relevant`: query → document id → grade, above 0. `sha256` is of the files' bytes, the judgments first."""

    relevant: Mapping[str, Mapping[str, int]]
    sha256: str


@dataclass(frozen=True, slots=True)
class GoldenScores:
    """nDCG@10 of both sides, a value for each cluster of near-duplicate queries that have a relevant document left.

    `judged`: how many queries those are. Of all `documents` that the files call relevant, `missing` do not exist.
    """

    of: Golden
    champion: npt.NDArray[np.float64]
    candidate: npt.NDArray[np.float64]
    judged: int
    documents: int
    missing: int


def read_golden(files: GoldenFiles) -> Golden | None:
    """None where no file is named. Raises InvalidInput that says file, line, value and remedy."""
    if files.judgments is None:
        return None
    content = _bytes("golden.judgments", files.judgments)
    where = f"golden.judgments, {files.judgments}"
    lines = _text(where, content)
    if files.queries is None:
        rows, texts = _table(where, lines), None
    else:
        asked = _bytes("golden.queries", files.queries)
        content += asked
        rows, texts = _qrels(where, lines), _queries(files.queries, asked)
    relevant = _relevant(where, rows, texts)
    if not relevant:
        raise InvalidInput(where, "", "it has no judgment with a relevance above 0: add some, or drop the setting")
    return Golden(relevant, hashlib.sha256(content).hexdigest())


def score(golden: Golden, documents: Set[str], champion: Find, candidate: Find) -> GoldenScores:
    """`documents` are the ids of those that exist; each side gives those that it finds for queries, best first."""
    asked = {document_id for grades in golden.relevant.values() for document_id in grades}
    judged = {
        query: found
        for query, grades in golden.relevant.items()
        if (found := {document_id: grade for document_id, grade in grades.items() if document_id in documents})
    }
    first, second = (_by_cluster(list(judged), _ndcg(judged, find(list(judged)))) for find in (champion, candidate))
    return GoldenScores(golden, first, second, len(judged), len(asked), len(asked - documents))


def _ndcg(judged: Mapping[str, Mapping[str, int]], hits: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """Negative ranks are the scores, because trec_eval breaks ties by id."""
    qrels = [
        Qrel(str(number), document_id, grade)
        for number, grades in enumerate(judged.values())
        for document_id, grade in grades.items()
    ]
    run = [
        ScoredDoc(str(number), document_id, -float(rank))
        for number, row in enumerate(hits)
        for rank, document_id in enumerate(row)
    ]
    values = np.zeros(len(judged))
    for metric in ir_measures.iter_calc([_NDCG], qrels, run) if qrels else ():
        values[int(metric.query_id)] = metric.value
    return values


def _by_cluster(queries: Sequence[str], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    clusters: dict[str, list[float]] = {}
    for query, value in zip(queries, values, strict=True):
        clusters.setdefault(cluster_of(query), []).append(float(value))
    return np.array([np.mean(found) for found in clusters.values()], dtype=np.float64)


def _relevant(where: str, rows: Iterator[_Row], texts: Mapping[str, str] | None) -> dict[str, dict[str, int]]:
    known: dict[tuple[str, str], tuple[int, int]] = {}  # (query, document) → grade, line
    for line, name, document_id, value in rows:
        query = name
        if texts is not None:
            if name not in texts:
                remedy = "golden.queries has no such query: add it there, or remove the line"
                raise InvalidInput(f"{where}, line {line}, query id", name, remedy)
            query = texts[name]
        for column, part in (("query", query), ("document id", document_id)):
            if not part:
                raise InvalidInput(f"{where}, line {line}, {column}", part, "give a text")
        grade = _grade(f"{where}, line {line}, relevance", value)
        before, first = known.setdefault((query, document_id), (grade, line))
        if before != grade:
            remedy = f"line {first} says {before} of the same query and document: keep one of them"
            raise InvalidInput(f"{where}, line {line}, relevance", grade, remedy)
    relevant: dict[str, dict[str, int]] = {}
    for (query, document_id), (grade, _) in known.items():
        if grade > 0:
            relevant.setdefault(query, {})[document_id] = grade
    return relevant


def _grade(name: str, value: str) -> int:
    try:
        grade = int(value)
    except ValueError:
        grade = None
    if grade is None or grade > MAX_GRADE:
        raise InvalidInput(name, value, f"give a whole number up to {MAX_GRADE}, 0 for not relevant")
    return grade


def _table(where: str, text: str) -> Iterator[_Row]:
    """Rows of a CSV file with a header."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        places = [next((header.index(name) for name in names if name in header), None) for names in COLUMNS]
        if None in places:
            remedy = "begin with a header: query,document_id,relevance; TREC qrels also need golden.queries"
            raise InvalidInput(f"{where}, line 1", ",".join(header), remedy)
        for row in reader:
            if not any(part.strip() for part in row):
                continue
            if len(row) != len(header):
                remedy = f"it has {len(row)} columns, the header {len(header)}: put texts with commas in quotes"
                raise InvalidInput(f"{where}, line {reader.line_num}", ",".join(row), remedy)
            query, document_id, grade = (row[place].strip() for place in places if place is not None)
            yield reader.line_num, query, document_id, grade
    except csv.Error as error:
        raise InvalidInput(f"{where}, line {reader.line_num}", str(error), "mend the quotes of this line") from None


def _qrels(where: str, text: str) -> Iterator[_Row]:
    """Rows of TREC qrels (query id, 0, document id, grade) or of BEIR's, with a header and without the 0."""
    for line, content in _lines(text):
        parts = content.split("\t") if "\t" in content else content.split()
        if line == 1 and parts == ["query-id", "corpus-id", "score"]:
            continue
        if len(parts) not in (3, 4):
            remedy = (
                "give query id, 0, document id and grade; a CSV file with the queries' texts needs no golden.queries"
            )
            raise InvalidInput(f"{where}, line {line}", content, remedy)
        query_id, *_, document_id, grade = (part.strip() for part in parts)
        yield line, query_id, document_id, grade


def _queries(path: Path, content: bytes) -> dict[str, str]:
    """Query id → text, from JSON lines (BEIR's queries.jsonl) or lines of id, tab, text."""
    where = f"golden.queries, {path}"
    texts: dict[str, str] = {}
    for line, row in _lines(_text(where, content)):
        query_id, text = _json_query(where, line, row) if path.suffix == ".jsonl" else _tsv_query(where, line, row)
        if texts.setdefault(query_id, text) != text:
            raise InvalidInput(f"{where}, line {line}, query id", query_id, "it has another text before: keep one")
    if not texts:
        raise InvalidInput(where, "", "it is empty: give the texts of the queries")
    return texts


def _tsv_query(where: str, line: int, row: str) -> tuple[str, str]:
    query_id, tab, text = row.partition("\t")
    if not (tab and query_id.strip() and text.strip()):
        raise InvalidInput(f"{where}, line {line}", row, "give query id, tab, text; JSON lines must end in .jsonl")
    return query_id.strip(), text.strip()


def _json_query(where: str, line: int, row: str) -> tuple[str, str]:
    try:
        value: Any = orjson.loads(row)
    except orjson.JSONDecodeError:
        value = None
    query_id = value.get("_id") if isinstance(value, dict) else None
    text = value.get("text") if isinstance(value, dict) else None
    if not (isinstance(query_id, str | int) and isinstance(text, str) and text.strip()):
        raise InvalidInput(f"{where}, line {line}", row, 'give an object: {"_id": "1", "text": "…"}')
    return str(query_id), text.strip()


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered from 1, without the empty ones."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        remedy = f"it cannot be read ({error.strerror}): name a file that can, or drop the setting"
        raise InvalidInput(setting, str(path), remedy) from None


def _text(where: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"{where}, line {line}", content[error.start : error.end], "save the file as UTF-8"
        ) from None
