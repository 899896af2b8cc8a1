import pytest

from clickloop.retriever.prompts import prompts_of


@pytest.mark.parametrize(
    ("model", "query", "document"),
    [
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("/models/multilingual-e5-large/", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large-instruct", "", ""),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        ("BAAI/bge-m3", "", ""),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("sentence-transformers/all-MiniLM-L6-v2", "", ""),
        ("/models/bge-small-en-runs/my-minilm", "", ""),
        ("/srv/e5-base-search/releases/release-1/model", "", ""),
        ("/srv/e5-base-search/runs/run-1/trained", "", ""),
    ],
)
def test_prompts_that_are_told_and_not_stored_are_known_by_name(model: str, query: str, document: str) -> None:
    assert prompts_of(model, {"query": "", "document": ""}) == (query, document)


def test_what_a_model_stores_comes_first() -> None:
    assert prompts_of("intfloat/e5-base-v2", {"query": "ask "}) == ("ask ", "")
    assert prompts_of("nomic", {"search_query": "ask ", "search_document": "read "}) == ("ask ", "read ")
