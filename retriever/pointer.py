"""The pointer to the build that answers queries: wishes to move it, what became of them, and what a move ends."""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from .database import Database
from .errors import Conflict
from .ledger import append
from .schema import builds, challenger, counted, lists, live, runs, switches


@dataclass(frozen=True, slots=True)
class Switch:
    """A wish to make a build the live one, and what became of it."""

    id: int
    build_id: str
    reason: str
    run_id: str | None
    state: str
    error: str | None


def switch_columns() -> Any:
    """What a `Switch` is made of."""
    c = switches.c
    return select(c.id, c.build_id, c.reason, c.run_id, c.state, c.error)


def add_switch(connection: Connection, build_id: str, reason: str, requested_by: str, run_id: str | None) -> int:
    """Raises Conflict for a rollback to the release that is live, or will be by the newest wish."""
    if reason == "rollback":
        _check_elsewhere(connection, build_id)
    row = {
        "build_id": build_id,
        "reason": reason,
        "run_id": run_id,
        "requested_by": requested_by,
        "requested_at": time.time(),
        "state": "requested",
    }
    return int(connection.execute(switches.insert().returning(switches.c.id), row).scalar_one())


def _check_elsewhere(connection: Connection, build_id: str) -> None:
    """Also for who asks twice. Of asks that see nothing of each other `_move_pointer` refuses all but the first."""
    release_id = _release(connection, build_id)
    wish = select(switches.c.build_id).where(switches.c.state == "requested").order_by(switches.c.id.desc()).limit(1)
    if (wanted := connection.scalar(wish)) is not None:
        if _release(connection, wanted) == release_id:
            raise Conflict(f"the switch to {release_id} is asked for already")
        return
    if release_id is not None and _live(connection)[1] == release_id:
        raise Conflict(f"{release_id} is live already")


def finish_switch(connection: Connection, switch_id: int, error: str | None = None) -> None:
    """Moves the pointer to the switch's build, or notes why not, and says so in the run that wished for it; the
    caller's transaction holds it together. A wish is answered once: doing it again with an error changes nothing.
    Raises Conflict as `check_champion` does, and when a wish that was answered is to be granted.
    """
    values: dict[str, object] = {"finished_at": time.time(), "error": error}
    wish = connection.execute(select(switches).where(switches.c.id == switch_id).with_for_update()).one()
    if wish.state != "requested":
        if error is None:
            raise Conflict(f"the switch to {wish.build_id} was answered before: {wish.state}")
        return
    if error is None:
        if wish.reason == "promotion":
            check_champion(connection, wish.run_id)
        values["former_build_id"] = _move_pointer(connection, str(wish.build_id), wish.reason)
    elif wish.reason in ("compaction", "quantisation"):
        set_build(connection, wish.build_id, state="rejected")  # nobody else waits for it
    state = "done" if error is None else "refused"
    connection.execute(switches.update().where(switches.c.id == switch_id).values(state=state, **values))
    append(
        connection,
        "switch",
        build=wish.build_id,
        release=_release(connection, wish.build_id),
        former=values.get("former_build_id"),
        reason=wish.reason,
        run=wish.run_id,
        by=wish.requested_by,
        state=state,
    )
    if wish.run_id is not None:
        settle_run(connection, wish.run_id, error)


def _move_pointer(connection: Connection, build_id: str, reason: str) -> str | None:
    """Returns the build that was live before. Raises Conflict when a compaction is of a release that is not live, and
    when a rollback is to the one that is.
    """
    (former, present), release_id = _live(connection), _release(connection, build_id)
    if former is None:
        connection.execute(live.insert(), {"id": 1, "build_id": build_id})
    elif reason == "rollback" and present == release_id:
        raise Conflict(f"{release_id} is live already")
    elif former != build_id:
        if reason == "compaction" and present != release_id:
            raise Conflict(f"superseded: {build_id} is a new index of {release_id}, but {present} is live now")
        connection.execute(live.update().values(build_id=build_id))
        # A former build of the same release answers nothing that the new one does not: nobody goes back to it.
        set_build(connection, former, state="rejected" if present == release_id else "retired")
        if present != release_id:
            drop_challenger(connection)  # it was compared with another champion
    set_build(connection, build_id, state="ready")  # also the challenger's own, which has won
    return former


def _live(connection: Connection) -> tuple[str | None, str | None]:
    """Build and release, where there are any."""
    found = select(builds.c.id, builds.c.release_id).join(live, live.c.build_id == builds.c.id)
    row = connection.execute(found).one_or_none()
    return (None, None) if row is None else (row.id, row.release_id)


def _release(connection: Connection, build_id: str) -> str | None:
    return connection.scalar(select(builds.c.release_id).where(builds.c.id == build_id))


def check_champion(connection: Connection, run_id: str) -> None:
    """Raises Conflict when what is live now is not what the candidate of this run was compared with."""
    details = connection.scalar(select(runs.c.details).where(runs.c.id == run_id)) or {}
    champion = details.get("lineage", {}).get("champion")
    _, present = _live(connection)
    if champion is not None and present != champion:
        raise Conflict(f"superseded: the candidate of {run_id} won against {champion}, but {present} is live now")


def settle_run(connection: Connection, run_id: str, error: str | None) -> None:
    """A run whose build went live is promoted; one whose build could not is rejected with the reason."""
    reasons = connection.scalar(select(runs.c.reasons).where(runs.c.id == run_id)) or []
    values: dict[str, object] = {"outcome": "promoted" if error is None else "rejected"}
    if error is not None:
        values["reasons"] = [*reasons, f"the switch was refused: {error}"]
    connection.execute(runs.update().where(runs.c.id == run_id).values(values))
    waiting = (runs.c.id == run_id) & (runs.c.state == "waiting")
    connection.execute(runs.update().where(waiting).values(state="finished", finished_at=time.time()))


def show_step(database: Database, run_id: str | None, step: str) -> None:
    """Says what the owner does now in the run that asked for the switch; one that waits for an admin keeps its step."""
    if run_id is not None:
        with database.write() as connection:
            connection.execute(
                runs.update().where(runs.c.id == run_id, runs.c.state == "running").values(step=step, progress=0.0)
            )


def set_build(connection: Connection, build_id: str, **values: object) -> None:
    connection.execute(builds.update().where(builds.c.id == build_id).values(**values))


def drop_challenger(connection: Connection) -> None:
    """Ends the challenger; its build is left to the owner for removal."""
    build_id = end_challenger(connection, "ended")
    if build_id is not None:
        set_build(connection, build_id, state="rejected")


def end_challenger(connection: Connection, state: str) -> str | None:
    """Nobody follows it any more; its build, if it has one, stays as it is. Returns that."""
    row = connection.execute(select(challenger.c.run_id, challenger.c.build_id)).one_or_none()
    if row is None:
        return None
    append(connection, "challenger", run=row.run_id, state=state)
    connection.execute(challenger.delete())
    for table in (counted, lists):
        connection.execute(table.delete().where(table.c.run_id == row.run_id))
    return None if row.build_id is None else str(row.build_id)
