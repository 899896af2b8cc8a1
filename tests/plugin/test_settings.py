import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from clickloop.plugin.settings import Settings, SettingsError, cron_trigger, own_settings, read_settings
from clickloop.retriever.errors import ClickLoopError
from clickloop.trainer.recipe import MAX_SEED, MAX_SOUP

SECRETS: dict[str, Any] = {
    "admin_key": "topsecret-of-the-admin",
    "database_url": "postgresql+psycopg://me:topsecret@db.example/clickloop",
    "qdrant": {"url": "http://qdrant.example:6333", "api_key": "topsecret-of-qdrant"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, without a settings file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(**given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(**given)
    return str(caught.value)


def test_everything_has_a_default() -> None:
    settings = read_settings()
    assert settings.data_dir == Path("clickloop-data")
    assert settings.durability == "process"
    assert settings.qdrant.url is None
    assert settings.schedule.enabled
    assert settings.schedule.timezone == "UTC"
    assert settings.promotion.mode == "auto"
    assert settings.url() == f"sqlite:///{Path.cwd()}/clickloop-data/clickloop.db"


def test_the_file_in_the_current_folder_is_read(folder: Path) -> None:
    (folder / "clickloop.toml").write_text(
        'model = "models/mine"\n[payload_indexes]\nlanguage = "keyword"\n[schedule]\ncron = "0 4 * * 1"\n'
    )
    settings = read_settings()
    assert settings.model == "models/mine"
    assert settings.payload_indexes == {"language": "keyword"}
    assert settings.schedule.cron == "0 4 * * 1"
    assert settings.schedule.enabled, "what the file does not say keeps its default"


def test_the_environment_overrides_the_file_and_what_is_given_overrides_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "clickloop.toml").write_text('seed = 1\nmodel = "a"\n[promotion]\nmode = "approve"\nmin_queries = 70\n')
    monkeypatch.setenv("CLICKLOOP_SEED", "2")
    monkeypatch.setenv("CLICKLOOP_PROMOTION__MODE", "auto")
    monkeypatch.setenv("CLICKLOOP_DATA_DIR", "from-environment")
    settings = read_settings(data_dir=Path("given"), model=None)
    assert (settings.seed, settings.model, settings.data_dir) == (2, "a", Path("given"))
    assert (settings.promotion.mode, settings.promotion.min_queries) == ("auto", 70)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("sede = 1", ["sede"]),
        ("[schedule]\nhour = 3", ["schedule.hour"]),
        ('durability = "often"', ["durability", "often", "process"]),
        ("seed = -1", ["seed", "-1"]),
        ("seed = 4294967296", ["seed", "4294967296", str(MAX_SEED)]),
        ("wait_seconds = inf", ["wait_seconds", "inf", "finite"]),
        ("[training]\nlearning_rate = nan", ["training.learning_rate", "nan", "finite"]),
        ("[promotion]\nmin_effect = inf", ["promotion.min_effect", "inf", "finite"]),
        ('data_dir = " "', ["data_dir", "' '", "name a folder"]),
        ("max_tokens = 2", ["max_tokens", "2", "8"]),
        ("[mining]\nmin_pairs = 500\n[training]\nmax_pairs = 400", ["max_pairs = 400", "mining.min_pairs = 500"]),
        ('wait_seconds = "long"', ["wait_seconds", "long"]),
        ('[payload_indexes]\nlanguage = "text"', ["payload_indexes.language", "text", "keyword"]),
        ('[schedule]\ncron = "every night"', ["schedule.cron", "every night"]),
        ('[schedule]\ncron = "99 2 * * *"', ["schedule.cron", "99 2 * * *"]),
        ('[schedule]\ncron = "30 2 31 2 *"', ["schedule.cron", "30 2 31 2 *", "never comes"]),
        ('[schedule]\ncron = "30 2 * * 8"', ["schedule.cron", "30 2 * * 8"]),
        ('[schedule]\ncron = "30 2 * * 18"', ["schedule.cron", "30 2 * * 18"]),
        ('[schedule]\ncron = "30 2 * * */2"', ["schedule.cron", "30 2 * * */2", "mon,wed,fri"]),
        ('[schedule]\ncron = "30 2 * * mon-fri/2"', ["schedule.cron", "30 2 * * mon-fri/2", "mon,wed,fri"]),
        ('[schedule]\ntimezone = "Mars/Olympus"', ["schedule.timezone", "Mars/Olympus"]),
        ('[promotion]\nmode = "ask"\nmin_recall = 2', ["promotion.mode", "ask", "promotion.min_recall", "2"]),
        ("seed = = 1", ["clickloop.toml", "line 1"]),
    ],
)
def test_a_wrong_setting_in_the_file_is_named_with_its_value(folder: Path, file: str, said: list[str]) -> None:
    (folder / "clickloop.toml").write_text(file)
    message = refused()
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CLICKLOOP_SEED", "many", ["seed", "many"]),
        ("CLICKLOOP_TRAINING__LEARNING_RATE", "inf", ["training.learning_rate", "inf", "finite"]),
        ("CLICKLOOP_DATA_DIR", "", ["data_dir", "''", "name a folder"]),
        ("CLICKLOOP_SPLIT__HOLDOUT", "1.5", ["split.holdout", "1.5"]),
        ("CLICKLOOP_SCHEDULE__CRONN", "x", ["schedule.cronn"]),
        ("CLICKLOOP_PAYLOAD_INDEXES", "language", ["payload_indexes"]),
        ("CLICKLOOP_DATABASE_URL", "no address", ["database_url"]),
    ],
)
def test_a_wrong_setting_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    message = refused()
    assert [part for part in said if part not in message] == []
    assert "clickloop.toml" not in message, "nobody finds it there"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CLICKLOOP_TRANING__EPOCHS", "CLICKLOOP_TRAINING__EPOCHS"),
        ("clickloop_datadir", "CLICKLOOP_DATA_DIR"),
        ("CLICKLOOP_QDRANT_URL", "CLICKLOOP_QDRANT__URL"),
        ("CLICKLOOP_ADMINKEY", "CLICKLOOP_ADMIN_KEY"),
        ("CLICKLOOP_XYZ", "unset it"),
    ],
)
def test_a_misspelt_variable_is_named_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "topsecret")
    message = refused()
    assert f"{name} is no setting" in message
    assert nearest in message
    assert "topsecret" not in message
    with pytest.raises(SettingsError, match=f"{name} is no setting"):
        Settings(data_dir="an app's own")


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEST_QDRANT_URL", "SERVICE_HOST", "API_SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP_ADDR"):
        monkeypatch.setenv(f"CLICKLOOP_{name}", "x")
    monkeypatch.setenv("MY_CLICKLOOP_THING", "x")
    monkeypatch.setenv("CLICKLOOP_ADMIN_KEY", "a preset key")
    assert read_settings() == read_settings(admin_key="a preset key")


def test_with_the_greatest_seed_every_training_of_a_soup_has_one_that_numpy_takes() -> None:
    settings = read_settings(seed=MAX_SEED, training={"soup": MAX_SOUP})
    greatest = settings.seed * settings.training.soup + settings.training.soup - 1
    assert np.random.RandomState(greatest).get_state()[1][0] == greatest, "and it is used whole"


def test_a_day_that_comes_every_few_years_is_a_schedule() -> None:
    assert read_settings(schedule={"cron": "30 2 29 2 mon"}).schedule.cron == "30 2 29 2 mon"


def test_a_file_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "clickloop.toml").write_bytes('model = "Müller"'.encode("latin-1"))
    assert "clickloop.toml cannot be read" in refused()


SUN, MON, TUE, WED, THU, FRI, SAT = range(7)


@pytest.mark.parametrize(
    ("weekdays", "days"),
    [
        ("*", {SUN, MON, TUE, WED, THU, FRI, SAT}),
        ("0", {SUN}),
        ("7", {SUN}),
        ("01", {MON}),
        ("1-5", {MON, TUE, WED, THU, FRI}),
        ("0-2,6", {SUN, MON, TUE, SAT}),
        ("5-7", {FRI, SAT, SUN}),
        ("0-7", {SUN, MON, TUE, WED, THU, FRI, SAT}),
        ("mon-wed,sun", {MON, TUE, WED, SUN}),
    ],
)
def test_weekdays_are_those_of_cron(weekdays: str, days: set[int]) -> None:
    trigger, now = cron_trigger(f"30 2 * * {weekdays}", "UTC"), datetime(2026, 1, 1, tzinfo=UTC)
    found = set()
    while now < datetime(2026, 1, 15, tzinfo=UTC):
        now = trigger.get_next_fire_time(None, now) + timedelta(minutes=1)
        found.add(now.isoweekday() % 7)
    assert found == days


def test_a_machine_whose_time_zone_is_unknown_needs_none() -> None:
    code = "from clickloop.plugin.settings import read_settings; print(read_settings().schedule.cron)"
    variables = os.environ | {"TZ": "Foo/Bar", "CLICKLOOP_SCHEDULE__CRON": "0 4 * * *"}
    ended = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "0 4 * * *\n"), ended.stderr


def test_what_a_command_makes_for_itself_never_goes_to_a_database_or_server_of_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKLOOP_TRAINING__EPOCHS", "5")
    assert own_settings(seed=3) == read_settings(seed=3)
    monkeypatch.setenv("CLICKLOOP_DATABASE_URL", SECRETS["database_url"])
    (folder / "clickloop.toml").write_text('[qdrant]\nurl = "http://me:topsecret@qdrant.example"\n')
    with pytest.raises(SettingsError, match=r"database_url names a postgresql .* qdrant.url .* unset it") as caught:
        own_settings()
    assert "topsecret" not in str(caught.value)


def test_a_settings_error_is_one_of_our_own() -> None:
    assert issubclass(SettingsError, ClickLoopError)


def test_secrets_are_never_shown() -> None:
    settings = Settings(**SECRETS)
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "topsecret" not in shown
    assert settings.url() == SECRETS["database_url"]


@pytest.mark.parametrize(
    "given",
    [
        {"admin_key": "topsecret"},
        {"admin_key": ["topsecret-as-a-list"]},
        {"database_url": {"password": "topsecret"}},
        {"qdrant": {"url": 5, "api_key": "topsecret-of-qdrant"}},
        {"qdrant": {"api_key": ["topsecret"]}},
        {"qdrant": {"apikey": "topsecret, but the name is misspelt"}},
        {**SECRETS, "durability": "often"},
    ],
)
def test_no_error_shows_a_secret(given: dict[str, Any]) -> None:
    assert "topsecret" not in refused(**given)
    with pytest.raises(ValidationError) as caught:
        Settings(**given)
    assert "topsecret" not in str(caught.value)


def test_a_child_gets_the_same_settings_with_their_secrets(folder: Path) -> None:
    (folder / "clickloop.toml").write_text("[mining]\nmin_pairs = 33\n")
    settings = read_settings(**SECRETS, data_dir=Path("relative"), payload_indexes={"year": "integer"}, seed=7)
    child = Settings(**settings.for_child())
    assert child.url() == settings.url()
    assert child.qdrant == settings.qdrant
    assert child.recipe == settings.recipe
    assert child.mining.min_pairs == 33
    assert child.data_dir == folder / "relative"
    assert child.model_dump(exclude={"data_dir", "admin_key"}) == settings.model_dump(exclude={"data_dir", "admin_key"})
    assert child.admin_key is None, "a nightly run needs no key of the API"


def test_queries_of_golden_judgments_need_the_judgments() -> None:
    assert "set golden.judgments too" in refused(golden={"queries": "queries.tsv"})
    assert read_settings(golden={"judgments": "golden.csv"}).recipe.golden.judgments == Path("golden.csv")
