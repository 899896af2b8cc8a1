"""Which build answered searches at a moment, and why, in the words of the ledger."""

import time
from datetime import UTC, datetime
from typing import Any

from ..retriever.database import Database
from ..retriever.errors import InvalidInput
from ..retriever.ledger import about_run, switches_until


def moment(text: str | None) -> float:
    """Seconds since 1970. Raises InvalidInput for what is no time, or lies in the future."""
    now = time.time()
    if text is None:
        return now
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("--at", text, "give a time as 2026-01-31T14:30, in UTC, or with a zone as +01:00") from None
    at = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    if at > now:
        raise InvalidInput("--at", text, f"it lies in the future; now is {_written(now)}")
    return at


def live_at(database: Database, at: float) -> list[str]:
    """The build that was live, since when, and who moved it there. Raises InvalidInput when there was none yet."""
    switches = switches_until(database, at)
    if not switches:
        later = switches_until(database, time.time())
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
        told = [_said(content) for content in about_run(database, switch["run"]) if _about(content, switch["release"])]
        lines += [f"         {said}" for said in told if said]
    return lines


def _about(content: dict[str, Any], release: str) -> bool:
    """A run may also have decided about other candidates."""
    return content["kind"] != "decision" or bool(content["candidate"] == release)


def _said(content: dict[str, Any]) -> str | None:
    if content["kind"] == "approval":
        return f"approved by {content['by']}"
    if content["kind"] == "decision":
        return (
            f"decision: {content['outcome']}, gain {content['mean']:+.4f} on {content['n']} query clusters, "
            f"p = {content['p_value']:.2g}, allowed {content['level']:.2g}"
        )
    return None


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
