"""Collections with known answers: what is read, and what is said about a broken folder."""

from pathlib import Path

import pytest

from clickloop.plugin.collection import Question, read_beir
from clickloop.plugin.demo import demo_collection
from clickloop.retriever.errors import InvalidInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "title": "t", "text": "one"}\n{"_id": "d2", "text": "two"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\tgone\t1\nq2\td2\t0\n")
    (tmp_path / "qrels" / "train.tsv").write_text("q1\t0\td2\t2\n")
    return tmp_path


def test_a_beir_folder_gives_its_documents_and_the_questions_that_have_an_answer(folder: Path) -> None:
    found = read_beir(folder)
    assert [(document.id, document.title, document.text) for document in found.documents] == [
        ("d1", "t", "one"),
        ("d2", "", "two"),
    ]
    assert found.questions == [Question("first", frozenset({"d1", "d2"}))]


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("queries.jsonl", "no json", r"queries.jsonl, line 1.*no json"),
        ("queries.jsonl", '{"_id": 1}', r"queries.jsonl, line 1.*text"),
        ("corpus.jsonl", '{"_id": 1.5}', r"corpus.jsonl, line 1.*_id"),
        ("qrels/test.tsv", "q1\td1\tmany", r"test.tsv, line 1.*many.*tabs"),
        ("qrels/test.tsv", "q1", r"test.tsv, line 1.*tabs"),
    ],
)
def test_a_broken_line_is_named(folder: Path, file: str, line: str, says: str) -> None:
    (folder / file).write_text(line + "\n")
    with pytest.raises(InvalidInput, match=says):
        read_beir(folder)


def test_what_is_no_beir_folder_says_so(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="BEIR"):
        read_beir(folder / "nothing")
    for file in (folder / "qrels").iterdir():
        file.unlink()
    with pytest.raises(InvalidInput, match="qrels"):
        read_beir(folder)


def test_the_demo_is_a_collection_too() -> None:
    found = demo_collection()
    known = {document.id for document in found.documents}
    assert len(found.questions) > 1000
    assert all(question.right and question.right <= known for question in found.questions)
