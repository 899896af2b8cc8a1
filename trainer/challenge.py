"""The challenger: a candidate short of evidence, and what is kept about it night after night."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select

from ..retriever.database import Database
from ..retriever.ledger import append
from ..retriever.pointer import drop_challenger, end_challenger
from ..retriever.schema import challenger, counted, lists
from .evaluate import Unit, sample_of, with_night
from .gate import Challenger
from .sample import Sample
from .votes import Vote, Votes


@dataclass(frozen=True, slots=True)
class Followed:
    """The challenger, where its model is, and how far the log was heard about it."""

    run_id: str
    release_id: str
    build_id: str | None
    judged_by: str
    log_seq: int
    state: Challenger


class Challengers:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, champion_id: str) -> Followed | None:
        """The challenger of this champion. One of a former champion ended with it."""
        with self._database.read() as connection:
            row = connection.execute(select(challenger)).one_or_none()
        if row is None or row.champion_id != champion_id:
            return None
        seen = sample_of(self._lists(row.run_id).values())
        state = Challenger(row.k, row.nights, _sample(row.queries), _votes(row.people), row.looked, seen)
        return Followed(row.run_id, row.release_id, row.build_id, row.judged_by, row.log_seq, state)

    def fresh(self, run_id: str, units: Collection[str]) -> set[str]:
        """Those of the units that did not yet count as evidence about the challenger of this run."""
        with self._database.read() as connection:
            known = set(connection.scalars(select(counted.c.unit).where(counted.c.run_id == run_id)))
        return {unit for unit in units if _hash(unit) not in known}

    def votes_with(self, followed: Followed, votes: Collection[Vote]) -> Votes:
        """All that people said about the challenger so far, and these votes of others."""
        before, lead = followed.state.people, func.sum(counted.c.vote)
        with self._database.read() as connection:
            about = select(counted.c.cluster, lead).where(counted.c.run_id == followed.run_id)
            rows = connection.execute(about.where(counted.c.vote != 0).group_by(counted.c.cluster)).all()
        found = Counter({cluster: int(value) for cluster, value in rows})
        found[""] += before.lead - found.total()  # of before it was written down what a vote is about
        for vote in votes:
            found[_hash(vote.cluster)] += vote.value
        return Votes.of(before.n + len(votes), found.values())

    def lists_with(self, followed: Followed, tonight: Mapping[str, Unit]) -> dict[str, Unit]:
        """What the lists said so far and these, by the hash of the cluster."""
        return with_night(self._lists(followed.run_id), {_hash(cluster): unit for cluster, unit in tonight.items()})

    def keep(
        self,
        followed: Followed,
        champion_id: str,
        units: Collection[str],
        votes: Mapping[str, Vote] | None = None,
        seen: Mapping[str, Unit] | None = None,
    ) -> bool:
        """Writes the state of the challenger, the units that now count, some of which voted, and what the lists say, as
        by `lists_with`; a new one takes another one's place. False, with nothing written, when it was followed before
        and has ended meanwhile: its index and its model may be gone.
        """
        voted = votes or {}
        samples = {"queries": asdict(followed.state.queries), "people": asdict(followed.state.people)}
        row = {
            "run_id": followed.run_id,
            "champion_id": champion_id,
            "release_id": followed.release_id,
            "build_id": followed.build_id,
            "k": followed.state.k,
            "looked": followed.state.looked,
            "nights": followed.state.nights,
            "judged_by": followed.judged_by,
            "log_seq": followed.log_seq,
            **samples,
        }
        with self._database.write() as connection:
            known = challenger.update().where(challenger.c.run_id == followed.run_id)
            if not connection.execute(known.values(row)).rowcount:
                if followed.judged_by != followed.run_id:
                    return False
                drop_challenger(connection)
                connection.execute(challenger.insert(), {"id": 1, **row})
            facts = {"run": followed.run_id, "nights": followed.state.nights, "judged_by": followed.judged_by}
            found = samples if followed.state.lists is None else samples | {"lists": asdict(followed.state.lists)}
            append(connection, "challenger", **facts, state="followed", fresh=len(units), **found)
            if units:
                none = Vote(0, "")
                said = [(unit, voted.get(unit, none)) for unit in sorted(units)]
                rows = [
                    {
                        "run_id": followed.run_id,
                        "unit": _hash(unit),
                        "cluster": _hash(cluster) if value else None,
                        "vote": value,
                    }
                    for unit, (value, cluster) in said
                ]
                connection.execute(self._database.insert(counted).on_conflict_do_nothing(), rows)
            if seen:
                run = {"run_id": followed.run_id}
                connection.execute(lists.delete().where(lists.c.run_id == followed.run_id))
                connection.execute(lists.insert(), [run | {"cluster": key} | asdict(seen[key]) for key in sorted(seen)])
        return True

    def _lists(self, run_id: str) -> dict[str, Unit]:
        wanted = select(lists).where(lists.c.run_id == run_id).order_by(lists.c.cluster)
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        return {row.cluster: Unit(row.times, row.delta, row.variance, row.third, row.loss) for row in rows}

    def any(self) -> str | None:
        """The release of the challenger, whoever its champion is."""
        with self._database.read() as connection:
            return connection.scalar(select(challenger.c.release_id))

    def leave(self, release_id: str) -> None:
        """Ends the challenger of this release, if it is one, and keeps its build: an admin decides on it."""
        with self._database.write() as connection:
            if connection.scalar(select(challenger.c.release_id)) == release_id:
                end_challenger(connection, "awaiting approval")

    def drop(self) -> None:
        with self._database.write() as connection:
            drop_challenger(connection)


def _sample(stored: Mapping[str, Any]) -> Sample:
    return Sample(**stored)


def _votes(stored: Mapping[str, Any]) -> Votes:
    """Votes of which nobody wrote down what they were about are taken for votes about one query."""
    return Votes(**stored) if "lead" in stored else Votes.of(stored["n"], [round(stored["total"])])


def _hash(unit: str) -> str:
    return hashlib.sha256(unit.encode()).hexdigest()[:20]
