import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from clickloop.plugin import stdlib

QUERIES = Path(stdlib.__file__).with_name("demo_queries.txt")
TWICE = """
import json
from clickloop.plugin.stdlib import documents
print(json.dumps([documents(), documents()]))
"""


# Early releases of Python 3.11 have no text for them.
UNDOCUMENTED_AT_FIRST = {"asyncio.TaskGroup", "asyncio.TaskGroup.create_task"}


class Block(NamedTuple):
    """One need: the documents that answer it, how it is searched for, and wordings kept for judging."""

    line: int
    answers: list[str]
    searched: list[str]
    unseen: list[str]


def read_blocks() -> list[Block]:
    blocks: list[Block] = []
    for number, line in enumerate(QUERIES.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            blocks.append(Block(number, line.split(), [], []))
        elif line.startswith("  ? "):
            blocks[-1].unseen.append(line[4:])
        else:
            blocks[-1].searched.append(line[2:])
    return blocks


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, str]]:
    """As a process of its own sees them: pytest replaces some functions of the standard library."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    first, second = json.loads(ran.stdout)
    assert first == second, "a second call gives other documents"
    by_id = {document["id"]: document for document in first}
    assert len(by_id) == len(first), "an id comes twice"
    return by_id


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    return read_blocks()


def test_the_standard_library_gives_thousands_of_documents(documents: dict[str, dict[str, str]]) -> None:
    assert len(documents) > 5000


def test_every_document_has_a_title_and_a_text(documents: dict[str, dict[str, str]]) -> None:
    assert [id_ for id_, document in documents.items() if not document["title"].strip()] == []
    assert [id_ for id_, document in documents.items() if not document["text"].strip()] == []
    assert {frozenset(document) for document in documents.values()} == {frozenset({"id", "title", "text"})}


@pytest.mark.parametrize(
    "id_", ["collections.defaultdict", "str.split", "os.path.join", "itertools.chain.from_iterable", "len"]
)
def test_what_everybody_knows_is_found_by_its_own_name(documents: dict[str, dict[str, str]], id_: str) -> None:
    assert id_ in documents
    assert documents[id_]["title"].startswith(id_)


def test_no_document_names_a_place_on_this_machine(documents: dict[str, dict[str, str]]) -> None:
    titles = " ".join(document["title"] for document in documents.values())
    for place in {sys.prefix, sys.base_prefix, str(Path.home()), str(Path.cwd())} - {"/", "/usr"}:
        assert place not in titles
    assert " at 0x" not in titles


def test_there_are_enough_queries(blocks: list[Block]) -> None:
    assert sum(len(block.searched) + len(block.unseen) for block in blocks) >= 400


def test_every_block_has_answers_and_both_kinds_of_queries(blocks: list[Block]) -> None:
    incomplete = [block.line for block in blocks if not (block.answers and block.searched and block.unseen)]
    assert incomplete == []


def test_no_wording_comes_twice(blocks: list[Block]) -> None:
    wordings = [" ".join(query.casefold().split()) for block in blocks for query in (*block.searched, *block.unseen)]
    assert sorted({wording for wording in wordings if wordings.count(wording) > 1}) == []


def test_every_answer_is_a_document(blocks: list[Block], documents: dict[str, dict[str, str]]) -> None:
    answers = {answer for block in blocks for answer in block.answers}
    missing = sorted(answers - documents.keys() - UNDOCUMENTED_AT_FIRST)
    if sys.version_info < (3, 14):
        assert missing == []
    else:  # names come and go with the versions of Python
        assert len(missing) <= 0.03 * len(answers), missing
