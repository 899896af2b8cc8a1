"""What models want before queries and documents, where their authors tell it and do not store it with the model."""

import re
from collections.abc import Mapping
from pathlib import PurePath

QUERY_NAMES = ("query", "search_query")  # what models call it
DOCUMENT_NAMES = ("document", "passage", "corpus", "search_document")
_INSTRUCTION = "Represent this sentence for searching relevant passages: "
# By the model's name; from the model cards of intfloat, BAAI, mixedbread-ai and nomic-ai.
_TOLD = (
    (re.compile(r"\be5-(small|base|large)(?!.*instruct)"), "query: ", "passage: "),
    (re.compile(r"\bbge-(small|base|large)-en"), _INSTRUCTION, ""),
    (re.compile(r"\bmxbai-embed-(large|xsmall)"), _INSTRUCTION, ""),
    (re.compile(r"\bnomic-embed-text"), "search_query: ", "search_document: "),
)


def prompts_of(model: str, stored: Mapping[str, str | None]) -> tuple[str, str]:
    """Those for queries and for documents: the stored ones if there are any, otherwise by the name of the model, which
    is the last part of a path. The folders of our own models have none ("model", "trained"): what they store counts.
    """
    query = next((prompt for name in QUERY_NAMES if (prompt := stored.get(name))), "")
    document = next((prompt for name in DOCUMENT_NAMES if (prompt := stored.get(name))), "")
    if query or document:
        return query, document
    name = PurePath(model).name.lower()
    return next(((query, document) for told, query, document in _TOLD if told.search(name)), ("", ""))
