"""Everything clickloop raises on purpose.

ClickLoopError
├── InvalidInput      a value the caller gave cannot be used
├── NotFound          no such document, run or release
├── Conflict          the request does not fit the present state
├── NotReady          nothing can answer now; ask again
│   ├── DatabaseFault the database is locked, full or away
│   ├── Unreachable   the Qdrant server does not answer
│   └── NoRoom        the disk has no room for more of the index
├── WaitExceeded      accepted, but not searchable within the time asked for
├── InUse             another process owns the data folder
├── DataFolderError   the data folder cannot be used by this version
├── ModelError        a model is missing, damaged or cannot be loaded
└── IndexFault        the vector index refused an operation
    └── IndexLost     it is gone or damaged: it has to be made anew

Messages say the name, the value and the remedy.
"""

import reprlib

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxstring, _REPR.maxother = 4, 10, 200, 200


class ClickLoopError(Exception):
    """Base of all errors raised on purpose; `str(error)` is fit to be shown to a user."""


class InvalidInput(ClickLoopError):
    def __init__(self, name: str, value: object, remedy: str) -> None:
        super().__init__(f"{name}: {shown(value)} cannot be used: {remedy}")
        self.name = name


class NotFound(ClickLoopError):
    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name[:200]!r} does not exist")


class Conflict(ClickLoopError):
    pass


class NotReady(ClickLoopError):
    retry_after = 2  # seconds


class DatabaseFault(NotReady):
    def __init__(self, cause: object) -> None:
        remedy = "once there is room on its disk" if "full" in str(cause) else "later"
        super().__init__(
            f"the database cannot be used now ({cause}): nothing of this was stored, send it again {remedy}"
        )


class Unreachable(NotReady):
    retry_after = 30

    def __init__(self, cause: object) -> None:
        super().__init__(
            f"the Qdrant server does not answer ({cause}): start it, or correct qdrant.url and qdrant.api_key"
        )


class NoRoom(NotReady):
    retry_after = 30

    def __init__(self, what: str, needed: int, free: int, folder: object) -> None:
        """`needed` and `free` in bytes."""
        super().__init__(
            f"{what} needs {-(-needed // 2**20):,} MiB of disk and {free // 2**20:,} MiB are free in {folder}: "
            "make room there, or move data_dir to a larger disk"
        )


class WaitExceeded(ClickLoopError):
    def __init__(self, revision: int, seconds: float) -> None:
        super().__init__(
            f"revision {revision} is stored but was not searchable within {seconds:g} s; "
            "it will be without any further call"
        )
        self.revision = revision


class InUse(ClickLoopError):
    pass


class DataFolderError(ClickLoopError):
    pass


class ModelError(ClickLoopError):
    pass


class IndexFault(ClickLoopError):
    pass


class IndexLost(IndexFault):
    pass


def shown(value: object, limit: int = 200) -> str:
    """The beginning of what `repr` gives, for values from outside: of the deepest ones `repr` itself gives an error."""
    text = _REPR.repr(value)
    return f"{text[:limit]}…" if len(text) > limit else text
