"""The documents of a night and their vectors under a release."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..retriever.documents import Documents
from ..retriever.releases import Releases
from ..retriever.serving import encode_documents
from ..retriever.types import Keys, Release, StoredDocument, Vectors
from ..retriever.vectors import COPIED, scratch


@dataclass(frozen=True, slots=True)
class Corpus:
    """Every document that was alive at `revision`, by ascending key."""

    revision: int
    documents: Sequence[StoredDocument]
    keys: Keys

    @property
    def revisions(self) -> Keys:
        return np.array([stored.revision for stored in self.documents], dtype=np.int64)

    def part(self, rows: Keys) -> "Corpus":
        """Some of the documents, by ascending row."""
        return Corpus(self.revision, [self.documents[row] for row in rows], self.keys[rows])


def read_corpus(documents: Documents) -> Corpus:
    revision = documents.revision()
    found = [stored for page in documents.snapshot(revision) for stored in page]
    return Corpus(revision, found, np.array([stored.key for stored in found], dtype=np.int64))


def corpus_vectors(
    corpus: Corpus, release: Release, releases: Releases, progress: Callable[[float], None], *, keep: bool
) -> Vectors:
    """One row a document: the stored vectors where they are of the present revision; the others are encoded, and with
    `keep` also stored, so that an interrupted night goes on where it was. They lie in a file (see `scratch`).
    """
    stored = releases.vectors(release)
    newest = stored.newest()
    result = scratch(releases.folder(release.id), len(corpus.keys), release.dimension)
    wanted = corpus.revisions
    places, known = newest.find(corpus.keys, wanted)
    for start in range(0, len(known), COPIED):
        rows = start + np.flatnonzero(known[start : start + COPIED])
        result[rows] = newest.vectors(places[rows])
    # Like lengths together, so that little is spent on padding; the longest first, so that what is left goes faster.
    missing: list[int] = np.flatnonzero(~known).tolist()
    missing.sort(key=lambda i: -len(corpus.documents[i].document.text))
    if not missing:
        return result
    encoder = releases.corpus_encoder(release)
    texts = [corpus.documents[i].document for i in missing]
    for start, part in encode_documents(encoder, texts, lambda done: progress(done / len(missing))):
        rows = np.array(missing[start : start + len(part)])
        result[rows] = part
        if keep:
            stored.append(corpus.keys[rows], wanted[rows], part)
    return result
