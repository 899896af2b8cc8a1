"""Golden judgments: what an admin's files say, and what is wrong with them when they cannot be understood."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from math import log2
from pathlib import Path

import pytest

from clickloop.retriever.errors import InvalidInput
from clickloop.trainer.golden import Golden, read_golden, score
from clickloop.trainer.recipe import GoldenFiles
from clickloop.trainer.report import golden_json

TABLE = "query,document_id,relevance\nsort a list,list.sort,2\nsort a list,sorted,1\nregex,re,1\n"
RELEVANT = {"sort a list": {"list.sort": 2, "sorted": 1}, "regex": {"re": 1}}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(content: str | bytes, name: str = "golden.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file


def read(judgments: Path, queries: Path | None = None) -> Golden:
    found = read_golden(GoldenFiles(judgments=judgments, queries=queries))
    assert found is not None
    return found


def refused(judgments: Path, queries: Path | None = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(judgments, queries)
    return str(caught.value)


def finder(answers: Mapping[str, Sequence[str]]) -> Callable[[Sequence[str]], list[Sequence[str]]]:
    return lambda queries: [answers.get(query, ()) for query in queries]


def test_without_a_file_there_is_nothing() -> None:
    assert read_golden(GoldenFiles()) is None


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        "\ufeff" + TABLE.replace("\n", "\r\n"),
        "grade,doc_id,query_text,note\n2,list.sort,sort a list,x\n1,sorted,sort a list,\n\n1,re,regex,\n0,os,regex,\n",
        'query,document_id,relevance\n"sort a list",list.sort,2\nsort a list,"sorted",1\nregex, re ,1\n',
    ],
)
def test_a_table_is_read_by_the_names_of_its_columns(write: Write, content: str) -> None:
    assert read(write(content)).relevant == RELEVANT


@pytest.mark.parametrize("qrels", ["1 0 list.sort 2\n1 0 sorted 1\n2 0 re 1\n2 0 os 0\n", None])
@pytest.mark.parametrize("queries", ["queries.jsonl", "queries.tsv"])
def test_qrels_are_read_with_the_texts_of_their_queries(write: Write, qrels: str | None, queries: str) -> None:
    beir = "query-id\tcorpus-id\tscore\n1\tlist.sort\t2\n1\tsorted\t1\n2\tre\t1\n"
    texts = {
        "queries.jsonl": '{"_id": "1", "text": "sort a list"}\n{"_id": 2, "text": "regex", "metadata": {}}\n',
        "queries.tsv": "1\tsort a list\n2\tregex\n3\tnever judged\n",
    }
    assert read(write(qrels or beir, "qrels"), write(texts[queries], queries)).relevant == RELEVANT


def test_the_hash_is_of_the_files_as_they_are(write: Write) -> None:
    assert read(write(TABLE)).sha256 == hashlib.sha256(TABLE.encode()).hexdigest()
    qrels, queries = "1 0 re 1\n", "1\tregex\n"
    both = read(write(qrels, "qrels"), write(queries, "queries.tsv"))
    assert both.sha256 == hashlib.sha256((qrels + queries).encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["line 1", "begin with a header"]),
        ("query,document_id\nregex,re\n", ["line 1", "query,document_id", "begin with a header"]),
        ("1 0 re 1\n", ["line 1", "1 0 re 1", "golden.queries"]),
        ("query,document_id,relevance\n", ["no judgment"]),
        ("query,document_id,relevance\nregex,re,0\n", ["no judgment"]),
        (TABLE + "regex,re,good\n", ["line 5, relevance", "'good'", "a whole number"]),
        (TABLE + "regex,rex,nan\n", ["line 5, relevance", "'nan'"]),
        (TABLE + "regex,rex,1.5\n", ["line 5, relevance", "'1.5'"]),
        (TABLE + "regex,rex,2000000000\n", ["line 5, relevance", "up to 100"]),
        (TABLE + "regex,re,2\n", ["line 5, relevance", "line 4 says 1", "keep one"]),
        (TABLE + ",re,2\n", ["line 5, query", "give a text"]),
        (TABLE + "regex,,2\n", ["line 5, document id", "give a text"]),
        (TABLE + "find, then replace,re,2\n", ["line 5", "4 columns", "in quotes"]),
        (TABLE + 'regex,"re"x,2\n', ["line 5", "quotes"]),
        (b"query,document_id,relevance\ncaf\xe9,re,1\n", ["line 2", "UTF-8"]),
    ],
)
def test_a_broken_table_is_told_by_line_value_and_remedy(write: Write, content: str, says: list[str]) -> None:
    path = write(content)
    message = refused(path)
    assert [part for part in ["golden.judgments", str(path), *says] if part not in message] == []


@pytest.mark.parametrize(
    ("qrels", "queries", "says"),
    [
        ("1 0 re 1\n7 0 re 1\n", "1\tregex\n", ["golden.judgments", "line 2, query id", "'7'", "no such query"]),
        ("1 re\n", "1\tregex\n", ["golden.judgments", "line 1", "1 re", "document id and grade"]),
        ("1 0 re x\n", "1\tregex\n", ["golden.judgments", "line 1, relevance", "'x'"]),
        ("1 0 re 1\n", "1 regex\n", ["golden.queries", "line 1", "1 regex", "tab"]),
        ("1 0 re 1\n", "1\tregex\n1\tsort\n", ["golden.queries", "line 2, query id", "'1'", "keep one"]),
        ("1 0 re 1\n", "\n", ["golden.queries", "empty"]),
        ("", "1\tregex\n", ["golden.judgments", "no judgment"]),
    ],
)
def test_broken_qrels_are_told_by_line_value_and_remedy(
    write: Write, qrels: str, queries: str, says: list[str]
) -> None:
    message = refused(write(qrels, "qrels"), write(queries, "queries.tsv"))
    assert [part for part in says if part not in message] == []


def test_a_broken_line_of_json_is_told(write: Write) -> None:
    message = refused(write("1 0 re 1\n", "qrels"), write('{"_id": "1"}\n', "queries.jsonl"))
    assert "golden.queries" in message
    assert "line 1" in message


@pytest.mark.parametrize("missing", ["golden.judgments", "golden.queries"])
def test_a_file_that_is_not_there_is_told(write: Write, tmp_path: Path, missing: str) -> None:
    there, gone = write("1 0 re 1\n", "qrels"), tmp_path / "gone.tsv"
    message = refused(gone, there) if missing == "golden.judgments" else refused(there, gone)
    assert missing in message
    assert str(gone) in message


def test_grades_and_ranks_count_and_each_side_has_its_own_ranking() -> None:
    golden = Golden(RELEVANT, "hash")
    best = {"sort a list": ["list.sort", "sorted"], "regex": ["re"]}
    other = {"sort a list": ["sorted", "os", "list.sort"], "regex": ["os"]}
    found = score(golden, {"list.sort", "sorted", "re", "os"}, finder(best), finder(other))
    assert found.champion.tolist() == [1.0, 1.0]
    assert found.candidate.tolist() == [pytest.approx((1 + 2 / log2(4)) / (2 + 1 / log2(3))), 0.0]


def test_documents_that_do_not_exist_are_counted_and_ask_nothing_of_a_model() -> None:
    found = score(Golden(RELEVANT, "hash"), {"list.sort"}, finder({"sort a list": ["list.sort"]}), finder({}))
    assert found.champion.tolist() == [1.0]
    assert (found.judged, found.documents, found.missing) == (1, 3, 2)
    told = golden_json(found, "r1")
    assert (told["queries"], told["judged_queries"], told["missing_documents"], told["enough"]) == (2, 1, 2, False)
    nothing = score(Golden(RELEVANT, "hash"), set(), finder({}), finder({}))
    assert golden_json(nothing, "r1")["champion"] is None


def test_near_duplicates_are_one_value() -> None:
    golden = Golden({"sort a list": {"a": 1}, "List, sort!": {"a": 1}, "regex": {"b": 1}}, "hash")
    found = score(golden, {"a", "b"}, finder({"sort a list": ["a"]}), finder({}))
    assert found.champion.tolist() == [0.5, 0.0]
    assert found.judged == 3
