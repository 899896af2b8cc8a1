from pathlib import Path

import pytest

from clickloop.plugin.auth import Keys
from clickloop.plugin.settings import SettingsError
from clickloop.retriever.database import Database
from clickloop.retriever.errors import InvalidInput, NotFound


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database)


def valid(keys: Keys) -> list[str]:
    return [key.id for key in keys.list() if key.revoked_at is None]


def test_only_hashes_are_stored(keys: Keys, tmp_path: Path) -> None:
    secrets = [keys.create(role)[1] for role in ("search", "write", "admin")]
    secrets.append("a preset admin key")
    keys.ensure_admin(secrets[-1])
    written = b"".join(path.read_bytes() for path in tmp_path.glob("clickloop.db*"))
    assert b"preset" in written, "the test looks at the wrong files"
    for secret in secrets:
        assert secret.encode() not in written


def test_a_key_has_its_role_until_it_is_revoked(keys: Keys) -> None:
    key_id, secret = keys.create("write")
    assert keys.role(secret) == "write"
    keys.revoke(key_id)
    assert keys.role(secret) is None
    first = keys.list()[0].revoked_at
    keys.revoke(key_id)
    assert keys.list()[0].revoked_at == first
    assert keys.role("") is None


def test_a_key_that_another_process_revokes_is_trusted_for_a_second(
    keys: Keys, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("clickloop.plugin.auth.time.monotonic", lambda: now[0])
    key_id, secret = keys.create("write")
    assert keys.trusted(secret) is None
    assert keys.role(secret) == "write"
    Keys(database).revoke(key_id)
    assert keys.trusted(secret) == "write"
    now[0] += 1.0
    assert keys.trusted(secret) is None
    assert keys.role(secret) is None


def test_a_key_revoked_here_is_refused_at_once(keys: Keys) -> None:
    key_id, secret = keys.create("write")
    assert keys.role(secret) == keys.trusted(secret) == "write"
    keys.revoke(key_id)
    assert keys.trusted(secret) is None


def test_every_key_is_another(keys: Keys) -> None:
    assert len({keys.create("search")[1] for _ in range(20)}) == 20


def test_an_unknown_role_or_key_is_named(keys: Keys) -> None:
    with pytest.raises(InvalidInput, match=r"'root'.*search, write, admin"):
        keys.create("root")
    with pytest.raises(NotFound, match="nobody"):
        keys.revoke("nobody")


def test_the_first_start_makes_one_admin_key_and_the_next_none(keys: Keys) -> None:
    made = keys.ensure_admin(None)
    assert made is not None
    assert keys.role(made) == "admin"
    assert keys.ensure_admin(None) is None
    assert valid(keys) == ["first"]


def test_when_every_admin_key_was_revoked_the_next_start_makes_a_new_one(keys: Keys) -> None:
    lost = keys.ensure_admin(None)
    keys.revoke("first")
    made = keys.ensure_admin(None)
    assert made is not None
    assert made != lost
    assert keys.role(made) == "admin"


def test_a_start_with_a_preset_key_makes_no_other(keys: Keys) -> None:
    assert keys.ensure_admin("the preset key") is None
    assert keys.ensure_admin("the preset key") is None
    assert keys.role("the preset key") == "admin"
    assert valid(keys) == ["preset"]


def test_white_space_around_a_preset_key_is_no_part_of_it(keys: Keys) -> None:
    keys.ensure_admin(" the preset key\n")
    assert keys.role("the preset key") == "admin"


def test_a_key_of_a_lower_role_that_is_preset_becomes_an_admins(keys: Keys) -> None:
    secret = keys.create("search", "searches")[1]
    keys.ensure_admin(secret)
    assert keys.role(secret) == "admin"
    assert valid(keys) == ["searches"]


def test_a_changed_preset_replaces_the_former_and_it_can_be_ended(keys: Keys) -> None:
    other = keys.create("search")[1]
    keys.ensure_admin("the former key")
    keys.ensure_admin("the present key")
    assert keys.role("the former key") is None
    assert keys.role("the present key") == "admin"
    assert keys.ensure_admin(None) is None
    assert keys.role("the present key") == "admin"
    keys.end_preset()
    assert keys.role("the present key") is None
    assert keys.ensure_admin(None) is not None
    assert keys.role(other) == "search"


def test_a_preset_key_that_was_revoked_starts_nothing_until_the_setting_changes(keys: Keys) -> None:
    keys.ensure_admin("the preset key")
    keys.revoke("preset")
    with pytest.raises(SettingsError, match=r"CLICKLOOP_ADMIN_KEY.*revoked.*another value, or unset it") as refused:
        keys.ensure_admin("the preset key")
    assert "the preset key" not in str(refused.value)
    assert keys.role("the preset key") is None
    keys.ensure_admin("another preset key")
    assert keys.role("another preset key") == "admin"


def test_a_revoked_key_of_any_id_can_be_no_preset(keys: Keys) -> None:
    key_id, secret = keys.create("write")
    keys.revoke(key_id)
    with pytest.raises(SettingsError):
        keys.ensure_admin(secret)
