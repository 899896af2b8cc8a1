"""Which build answered searches at a moment, and why, in the words of the ledger."""

import time
from datetime import UTC, datetime
from typing import Any

from ..retriever.database import Database
from ..retriever.errors import InvalidInput
from ..retriever.ledger import about_run, entries, moves, until


def moment(text: str) -> float:
    """Seconds since 1970. Raises InvalidInput for what is no time, or lies in the future."""
    now = time.time()
    try:
        parsed = datetime.fromisoformat(text)
        at = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):  # the latter where UTC's year is none of 1 to 9999
        raise InvalidInput("--at", text, "give a time as 2026-01-31T14:30, in UTC, or with a zone as +01:00") from None
    if at > now:
        raise InvalidInput("--at", text, f"it lies in the future; now is {_written(now)}")
    return at


def live_at(database: Database, at: float | None = None) -> list[str]:
    """The build that was live, since when, and who moved it there; without a time the one that is. A time (seconds
    since 1970) that the clock showed more than once, because it was set back, is the last one that the ledger knows of,
    and a line says that there may be others. Raises InvalidInput when none was live yet.
    """
    known, now = entries(database), time.time()
    told, at = (known, now) if at is None else (until(known, at), at)
    switches = moves(told)
    if not switches:
        later = moves(known)
        first = f"the first build went live at {_written(later[0]['at'])}" if later else "no build has been live yet"
        raise InvalidInput("--at", _written(at), first)
    switch = switches[-1]
    lines = [
        f"build:   {switch['build']}",
        f"release: {switch['release']}",
        f"since:   {_written(switch['at'])}, in the place of {switch['former'] or 'none'}",
        f"why:     {switch['reason']}, asked for by {switch['by']}",
    ]
    if switch["run"] is not None:
        about = about_run(database, switch["run"])
        said = [_said(content) for content in about if _about(content, switch["release"])]
        lines += [f"         {line}" for line in said if line]
    if any(entry.at > at for entry in told) or any(entry.at > now for entry in known):
        lines.append("clock:   it was set back: this time may have come more than once, with another build live")
    return lines


def _about(content: dict[str, Any], release: str) -> bool:
    """A run may also have decided about other candidates."""
    return content["kind"] != "decision" or bool(content["candidate"] == release)


def _said(content: dict[str, Any]) -> str | None:
    if content["kind"] == "approval":
        return f"approved by {content['by']}"
    if content["kind"] == "decision":
        return (
            f"decision: {content['outcome']}, {_found(content)}, "
            f"p = {content['p_value']:.2g}, allowed {content['level']:.2g}"
        )
    return None


def _found(decision: dict[str, Any]) -> str:
    """What the decision is based on: votes of people or changes of nDCG@10."""
    mean, n = f"{decision['mean']:+.4f}", decision["n"]
    match decision.get("by"):
        case "people":
            return f"preferred by {mean} votes of {n} people"
        case "queries":
            return f"gain {mean} on {n} query clusters"
        case _:  # what was written before ledgers said whose evidence decided
            return f"gain {mean} on {n} units"


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
