"""Slices of the judged queries: where a candidate gains and where it loses. They are reported and decide nothing."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from .evaluate import Result

HEAD = 0.5  # share of the judged results that the head makes up
ALIKE = 0.5  # queries that share more than this of their words (Jaccard) are alike


def by_slice(results: Sequence[Result], seen: pl.DataFrame, trained: Iterable[str]) -> dict[str, list[Result]]:
    """`seen` tallies what was judged, `trained` holds the clusters of the queries that were trained on.

    "head": the clusters of which most results were seen; "tail": all others; "unlike training": those of both that no
    query of the training is like.
    """
    counts = dict(seen.group_by("cluster").agg(pl.col("views").sum()).rows())
    clusters = {result.cluster for result in results}
    first, new = head({cluster: counts[cluster] for cluster in clusters}), unlike(clusters, trained)
    return {
        "head": [result for result in results if result.cluster in first],
        "tail": [result for result in results if result.cluster not in first],
        "unlike training": [result for result in results if result.cluster in new],
    }


def head(views: Mapping[str, int]) -> set[str]:
    """The fewest clusters that make up HEAD of all views."""
    wanted, found = HEAD * sum(views.values()), set()
    for cluster in sorted(views, key=lambda cluster: (-views[cluster], cluster)):
        if wanted <= 0:
            break
        wanted -= views[cluster]
        found.add(cluster)
    return found


def unlike(clusters: Iterable[str], others: Iterable[str]) -> set[str]:
    """Those of the clusters that share at most ALIKE of their words with any of the others."""
    with_word: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    for other in set(others):
        words = frozenset(other.split())
        for word in words:
            with_word[word].append(words)
    return {cluster for cluster in clusters if not _alike(frozenset(cluster.split()), with_word)}


def _alike(words: frozenset[str], with_word: Mapping[str, Sequence[frozenset[str]]]) -> bool:
    """Whoever is alike has more than half of the words, so at least one of the rarer half: the lists of common words
    are never walked through.
    """
    by_rarity = sorted(words, key=lambda word: len(with_word.get(word, ())))
    return any(
        len(words & other) > ALIKE * len(words | other)
        for word in by_rarity[: (len(words) + 1) // 2]
        for other in with_word.get(word, ())
    )
