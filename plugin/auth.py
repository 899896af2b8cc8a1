"""API keys: roles search < write < admin, each allowed what the ones before it are. Only hashes are stored."""

import asyncio
import hashlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

from fastapi import Request
from sqlalchemy import select

from ..retriever.database import Database
from ..retriever.errors import InvalidInput, NotFound
from ..retriever.schema import keys
from .problems import Check, Problem
from .settings import SettingsError

Role = Literal["search", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
PRESET = "preset"  # the id of the key that the settings name
FIRST = "first"  # the id of the key that the first start makes
TRUSTED_SECONDS = 1.0  # how long a key that was valid is not looked up again
LOOKING_UP = 4  # keys at a time; others wait


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    role: Role
    created_at: float
    revoked_at: float | None


class Keys:
    """A key that another process revokes is refused a second later, one that this process revokes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._trusted: dict[str, tuple[Role, float]] = {}  # hash → role, and until when (monotonic)
        # Threads of their own: routes that keep the shared ones busy delay no search.
        self._threads = ThreadPoolExecutor(LOOKING_UP, thread_name_prefix="keys")

    def create(self, role: str, key_id: str | None = None) -> tuple[str, str]:
        """The id and the key itself, which is shown this once."""
        if role not in ROLES:
            raise InvalidInput("role", role, f"use one of {', '.join(ROLES)}")
        secret = f"cl_{role}_{secrets.token_urlsafe(24)}"
        return self._store(role, secret, key_id or secrets.token_hex(4)), secret

    def list(self) -> list[Key]:
        with self._database.read() as connection:
            rows = connection.execute(
                select(keys.c.id, keys.c.role, keys.c.created_at, keys.c.revoked_at).order_by(keys.c.created_at)
            ).all()
        return [Key(*row) for row in rows]

    def revoke(self, key_id: str) -> None:
        """Idempotent. Raises NotFound for an unknown id."""
        with self._database.write() as connection:
            known = connection.scalar(select(keys.c.id).where(keys.c.id == key_id))
            if known is None:
                raise NotFound("key", key_id)
            revoked = keys.update().where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
            connection.execute(revoked.values(revoked_at=time.time()))
        self._trusted.clear()

    def trusted(self, secret: str) -> Role | None:
        """The role of a key that was valid less than a second ago."""
        role, until = self._trusted.get(_hash(secret), (None, 0.0))
        return role if time.monotonic() < until else None

    def role(self, secret: str) -> Role | None:
        """The role of a key that is valid now."""
        hashed, until = _hash(secret), time.monotonic() + TRUSTED_SECONDS
        with self._database.read() as connection:
            role: Role | None = connection.scalar(
                select(keys.c.role).where(keys.c.hash == hashed, keys.c.revoked_at.is_(None))
            )
        if role is None:
            self._trusted.pop(hashed, None)
        else:
            self._trusted[hashed] = (role, until)
        return role

    async def found(self, secret: str) -> Role | None:
        """The same, while the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.role, secret)

    def end_preset(self) -> None:
        """The key that the settings named before is valid no more."""
        with self._database.write() as connection:
            connection.execute(keys.delete().where(keys.c.id == PRESET))

    def ensure_admin(self, preset: str | None) -> str | None:
        """Makes the preset key valid; without one, and with no admin key there at all, makes one and returns it.

        Raises SettingsError where the preset key was revoked: nobody might have a valid one.
        """
        if preset is not None:
            preset = preset.strip()  # as the one in a header is
            hashed = _hash(preset)
            with self._database.write() as connection:
                if connection.scalar(select(keys.c.id).where(keys.c.hash == hashed, keys.c.revoked_at.is_not(None))):
                    raise SettingsError(
                        "admin_key (CLICKLOOP_ADMIN_KEY): this key was revoked; set another value, or unset it"
                    )
                connection.execute(keys.delete().where(keys.c.id == PRESET, keys.c.hash != hashed))
                connection.execute(keys.update().where(keys.c.hash == hashed).values(role="admin"))
            self._store("admin", preset, PRESET)
            return None
        if any(key.role == "admin" and key.revoked_at is None for key in self.list()):
            return None
        return self.create("admin", None if any(key.id == FIRST for key in self.list()) else FIRST)[1]

    def _store(self, role: str, secret: str, key_id: str) -> str:
        row = {"id": key_id, "role": role, "hash": _hash(secret), "created_at": time.time()}
        with self._database.write() as connection:
            connection.execute(self._database.insert(keys).on_conflict_do_nothing(), row)
        return key_id


def require(keys: Keys, role: Role) -> Check:
    """Lets a request pass whose key has at least this role: else 401 or 403."""

    async def check(request: Request) -> None:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        found = keys.trusted(secret)
        if found is None and secret:
            found = await keys.found(secret)
        if found is None:
            detail = "send a valid key as `Authorization: Bearer …`; `clickloop keys create` makes one"
            raise Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})
        if ROLES.index(found) < ROLES.index(role):
            raise Problem(403, f"this needs a key of role {role}; the one sent has role {found}")

    return check


def _hash(secret: str) -> str:
    """Keys are long and random: a plain hash gives nothing away."""
    return hashlib.sha256(secret.encode()).hexdigest()
