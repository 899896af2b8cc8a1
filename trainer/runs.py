"""Rows about nightly runs: what each is doing, what it decided, and what an admin then said."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select, text, union

from ..retriever.database import Database
from ..retriever.errors import Conflict, NotFound
from ..retriever.ledger import append
from ..retriever.pointer import add_switch, check_champion, set_build
from ..retriever.releases import new_id
from ..retriever.schema import builds, challenger, live, looks, runs, switches
from .gate import Decision
from .sample import Sample
from .votes import Votes

MAX_ATTEMPTS = 3
ACTIVE = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The newest search and event that belong to a run, in order of arrival."""

    search: int
    event: int


@dataclass(frozen=True, slots=True)
class Run:
    """`state`: queued, running, waiting (for an admin) or finished. `details`: metrics, mining, timings, lineage."""

    id: str
    state: str
    step: str
    progress: float
    outcome: str | None
    reasons: list[str]
    requested_by: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    log_seq: int | None
    event_seq: int | None
    build_id: str | None
    details: dict[str, Any]


class Runs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def queue(self, requested_by: str) -> Run:
        """Raises Conflict while another run is queued or running."""
        row = {
            "id": new_id("run"),
            "state": "queued",
            "step": "queued",
            "progress": 0.0,
            "reasons": [],
            "requested_by": requested_by,
            "created_at": time.time(),
            "attempts": 0,
            "details": {},
        }
        with self._database.write() as connection:
            if self._database.dialect == "postgresql":  # where two writers would not see each other's run
                connection.execute(text("LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE"))
            active = connection.scalar(select(runs.c.id).where(runs.c.state.in_(ACTIVE)).limit(1))
            if active is not None:
                raise Conflict(f"run {active} is active; wait for its end before you start another")
            connection.execute(runs.insert(), row)
        return self.get(str(row["id"]))

    def get(self, run_id: str) -> Run:
        with self._database.read() as connection:
            row = connection.execute(select(runs).where(runs.c.id == run_id)).one_or_none()
        if row is None:
            raise NotFound("run", run_id)
        return _run(row)

    def page(self, limit: int = 50, cursor: str | None = None) -> tuple[list[Run], str | None]:
        """The newest first, and the cursor of the next page when there is one."""
        statement = select(runs).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit + 1)
        if cursor is not None:
            last = self.get(cursor)
            earlier = (runs.c.created_at == last.created_at) & (runs.c.id < last.id)
            statement = statement.where(or_(runs.c.created_at < last.created_at, earlier))
        with self._database.read() as connection:
            found = [_run(row) for row in connection.execute(statement)]
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    def unfinished(self) -> Run | None:
        """A run that was queued, or interrupted in the middle."""
        with self._database.read() as connection:
            row = connection.execute(
                select(runs).where(runs.c.state.in_(ACTIVE)).order_by(runs.c.created_at).limit(1)
            ).one_or_none()
        return None if row is None else _run(row)

    def start(self, run_id: str, now: Bounds) -> Run:
        """Marks the run as running, unless it has ended meanwhile. The bounds of its log are those of its first start,
        also after a crash.
        """
        with self._database.write() as connection:
            values = {
                "state": "running",
                "step": "starting",
                "started_at": func.coalesce(runs.c.started_at, time.time()),
            }
            bounds = {
                "log_seq": func.coalesce(runs.c.log_seq, now.search),
                "event_seq": func.coalesce(runs.c.event_seq, now.event),
                "attempts": runs.c.attempts + 1,
            }
            active = (runs.c.id == run_id) & runs.c.state.in_(ACTIVE)
            connection.execute(runs.update().where(active).values(**values, **bounds))
        return self.get(run_id)

    def update(self, run_id: str, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(runs.update().where(runs.c.id == run_id).values(**values))

    def detail(self, run_id: str, part: str | None = None, **details: Mapping[str, Any]) -> None:
        """Adds to the run's details, or to that part of them."""
        with self._database.write() as connection:
            _detail(connection, run_id, part, details)

    def finish(self, run_id: str, outcome: str, reasons: list[str]) -> None:
        values = {"outcome": outcome, "reasons": reasons, "state": "finished", "step": "finished", "progress": 1.0}
        self.update(run_id, **values, finished_at=time.time())

    def looks_before(self, run_id: str) -> int:
        """How many looks of the gate other runs took."""
        with self._database.read() as connection:
            counted = select(func.count()).select_from(looks).where(looks.c.run_id != run_id)
            return int(connection.execute(counted).scalar_one())

    def looked(self, run_id: str) -> bool:
        """Whether the candidate of this run had a first look, in any of its attempts."""
        with self._database.read() as connection:
            return bool(connection.scalar(select(looks.c.level).where(looks.c.run_id == run_id)))

    def decided(self, run_id: str, decision: Decision, *, first: bool, **inputs: Any) -> None:
        """Writes the decision, and the look that a `first` one spent, in one transaction; doing it again spends no
        other, and never less. `inputs` (ids and hashes) go to the ledger. A `first` one stands: it stays in the run's
        details (see `decision_of`), so that a later attempt does not look again at other documents.
        """
        row = {
            "k": decision.look,
            "run_id": run_id,
            "level": decision.level,
            "p_value": decision.p_value,
            "promoted": decision.outcome == "promoted",
            "at": time.time(),
        }
        with self._database.write() as connection:
            if first and decision.look:
                insert = self._database.insert(looks).on_conflict_do_nothing(index_elements=["run_id"])
                connection.execute(insert, row)
                less = (looks.c.run_id == run_id) & (looks.c.level < decision.level)
                connection.execute(looks.update().where(less).values(level=decision.level, p_value=decision.p_value))
            if first:
                _detail(connection, run_id, None, {"decided": {**inputs, "decision": asdict(decision)}})
            append(connection, "decision", run=run_id, **inputs, **decision_json(decision))
            connection.execute(runs.update().where(runs.c.id == run_id).values(reasons=list(decision.reasons)))

    def wait_for_approval(self, run_id: str) -> None:
        """The newest candidate takes the place of any other that waits."""
        with self._database.write() as connection:
            self._supersede(connection, run_id)
            values = {"outcome": "awaiting_approval", "state": "waiting", "step": "waiting", "progress": 1.0}
            connection.execute(runs.update().where(runs.c.id == run_id).values(values))

    def supersede(self, run_id: str) -> None:
        """Ends every other run that waits for an admin: this one came later."""
        with self._database.write() as connection:
            self._supersede(connection, run_id)

    def approve(self, run_id: str, who: str) -> None:
        """Asks the owner for the switch. Raises Conflict when the run does not wait, or no longer."""
        with self._database.write() as connection:
            run = self._waiting(connection, run_id)
            check_champion(connection, run_id)
            add_switch(connection, str(run.build_id), "promotion", who, run_id)
            append(connection, "approval", run=run_id, build=run.build_id, by=who)
            approved = [*run.reasons, f"approved by {who}"]
            connection.execute(runs.update().where(runs.c.id == run_id).values(reasons=approved, step="switching"))

    def reject(self, run_id: str, who: str) -> None:
        with self._database.write() as connection:
            run = self._waiting(connection, run_id)
            self._end(connection, run, f"rejected by {who}")

    def reject_orphans(self) -> None:
        """Leaves to the owner for removal what is ready but neither live nor followed nor waited for."""
        needed = (runs.c.state != "finished") & runs.c.build_id.is_not(None)
        kept = union(
            select(live.c.build_id),
            select(challenger.c.build_id).where(challenger.c.build_id.is_not(None)),
            select(runs.c.build_id).where(needed),
            select(switches.c.build_id).where(switches.c.state == "requested"),
        )
        with self._database.write() as connection:
            orphans = (builds.c.state == "ready") & builds.c.id.not_in(select(kept.subquery().c.build_id))
            connection.execute(builds.update().where(orphans).values(state="rejected"))

    def _supersede(self, connection: Connection, run_id: str) -> None:
        waiting = (runs.c.state == "waiting") & (runs.c.step != "switching")  # an approved one is on its way
        others = select(runs).where(waiting, runs.c.id != run_id)
        for row in connection.execute(others).all():
            self._end(connection, _run(row), f"superseded by {run_id}")

    def _waiting(self, connection: Connection, run_id: str) -> Run:
        row = connection.execute(select(runs).where(runs.c.id == run_id)).one_or_none()
        if row is None:
            raise NotFound("run", run_id)
        run = _run(row)
        if run.state != "waiting" or run.step == "switching":
            ended = "its switch is under way" if run.step == "switching" else f"{run.state}, {run.outcome}"
            raise Conflict(f"run {run_id} does not wait for an approval ({ended}): {'; '.join(run.reasons[-1:])}")
        return run

    def _end(self, connection: Connection, run: Run, reason: str) -> None:
        values = {"outcome": "rejected", "state": "finished", "step": "finished", "finished_at": time.time()}
        reasons = [*run.reasons, reason]
        connection.execute(runs.update().where(runs.c.id == run.id).values(**values, reasons=reasons))
        append(connection, "rejection", run=run.id, build=run.build_id, reason=reason)
        set_build(connection, str(run.build_id), state="rejected")


def decision_json(decision: Decision) -> dict[str, Any]:
    """What the ledger says about a decision."""
    found = decision.sample
    return {
        "outcome": decision.outcome,
        "look": decision.look,
        "level": decision.level,
        "p_value": decision.p_value,
        "by": decision.by,
        "n": found.n,
        "mean": found.mean,
        "error": found.error if found.n > 1 else None,
    }


def decision_of(decided: Mapping[str, Any]) -> Decision:
    """The decision that is kept in a run's details."""
    kept = decided["decision"]
    sample = (Votes if "lead" in kept["sample"] else Sample)(**kept["sample"])
    return Decision(**{**kept, "reasons": tuple(kept["reasons"]), "sample": sample})


def _detail(connection: Connection, run_id: str, part: str | None, details: Mapping[str, Any]) -> None:
    present = connection.scalar(select(runs.c.details).where(runs.c.id == run_id)) or {}
    added = details if part is None else {part: {**present.get(part, {}), **details}}
    connection.execute(runs.update().where(runs.c.id == run_id).values(details={**present, **added}))


def _run(row: Row[Any]) -> Run:
    return Run(**row._mapping)
