"""All settings: `clickloop.toml`, overridden by CLICKLOOP_* variables (`__` for nesting), read once at the edge."""

import difflib
import os
import re
import tomllib
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings import SettingsError as SourceError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ..retriever.errors import ClickLoopError
from ..retriever.explore import Exploration
from ..trainer.recipe import MAX_SEED, FineTuning, GoldenFiles, Guards, Mining, Promotion, Recipe, Split

PREFIX = "CLICKLOOP_"
# Variables of others: of the tests, and those in which Kubernetes describes a Service of our name.
FOREIGN = re.compile(r"test_\w+|(\w+_)?(service_host|service_port|port)(_\w+)?")
DATABASE = "clickloop.db"  # SQLite's, in the data folder
SECRETS = {"admin_key", "api_key", "database_url"}
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")  # cron's 0 to 7


class SettingsError(ClickLoopError):
    """A setting is wrong; the message names each with its value."""


class Qdrant(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    url: str | None = Field(None, description="a Qdrant server; without one the index is embedded")
    api_key: SecretStr | None = Field(None, description="of the Qdrant server")
    prefix: str = Field("clickloop-", description="begins the name of every collection")


class Schedule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    enabled: bool = Field(True, description="whether this process follows the schedule")
    cron: str = Field("30 2 * * *", description="minute, hour, day, month, weekday (0 and 7: Sunday, or a name)")
    timezone: str = Field("UTC", description="elsewhere 02:30 can come never or twice when clocks change")

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            raise ValueError("use a name of the time zone database, such as UTC or Europe/Vienna") from None
        return value

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if cron_trigger(value, "UTC").get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ValueError("that day never comes: use one that the calendar has, as in 30 2 * * *")
        return value


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        toml_file="clickloop.toml",
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(Path("clickloop-data"), description="holds all state of the embedded default")
    database_url: SecretStr | None = Field(None, description="PostgreSQL; without one SQLite in the data folder")
    durability: Literal["process", "power"] = Field(
        "process", description="what acknowledged data survives: the death of any process, or a power cut too"
    )
    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="of the first release: a folder or a name on the hub"
    )
    max_tokens: int | None = Field(
        None, ge=8, description="of the first release: texts are cut to this length; default: the model's own"
    )
    admin_key: SecretStr | None = Field(None, description="presets the admin key; without it the first start makes one")
    payload_indexes: dict[str, Literal["keyword", "integer", "float", "bool", "datetime"]] = Field(
        default_factory=dict, description="payload fields that filters often use, with their type"
    )
    compact_after: int = Field(
        20_000, ge=0, description="writes after which a child process makes the embedded index anew; 0: never"
    )
    wait_seconds: float = Field(30, gt=0, description="how long a write with `wait` waits before it answers 504")
    qdrant: Qdrant = Qdrant()
    schedule: Schedule = Schedule()
    mining: Mining = Mining()
    split: Split = Split()
    training: FineTuning = FineTuning()
    promotion: Promotion = Promotion()
    exploration: Exploration = Exploration()
    guards: Guards = Guards()
    golden: GoldenFiles = GoldenFiles()
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of sampling and training")

    def __init__(self, **given: Any) -> None:
        """Raises SettingsError for CLICKLOOP_* variables that are none of ours, which nothing else would notice."""
        if unknown := list(_unknown_variables()):
            raise SettingsError("settings: " + "; ".join(unknown))
        super().__init__(**given)

    @field_validator("data_dir", mode="before")
    @classmethod
    def _a_name(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():  # as a path it would be the current folder
            raise ValueError("name a folder, or unset it")
        return value

    @field_validator("database_url")
    @classmethod
    def _an_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                make_url(value.get_secret_value())
            except ArgumentError:
                raise ValueError("use an address like postgresql+psycopg://user:password@host/database") from None
        return value

    @field_validator("training")
    @classmethod
    def _enough_pairs(cls, value: FineTuning, info: ValidationInfo) -> FineTuning:
        mining = info.data.get("mining")
        if mining is not None and value.max_pairs < mining.min_pairs:
            raise ValueError(
                f"max_pairs = {value.max_pairs} is less than mining.min_pairs = {mining.min_pairs}, so that no night "
                "would train: raise the one or lower the other"
            )
        return value

    @field_validator("admin_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        secret = None if value is None else value.get_secret_value().strip()
        if secret is not None and (len(secret) < 12 or not secret.isascii()):  # headers hold no other letters
            raise ValueError("use at least 12 characters, all of them ASCII")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            mining=self.mining,
            split=self.split,
            training=self.training,
            promotion=self.promotion,
            guards=self.guards,
            golden=self.golden,
            seed=self.seed,
        )

    def url(self) -> str:
        """Of the database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / DATABASE).resolve()}"

    def for_child(self) -> dict[str, Any]:
        """Everything a nightly run needs, secrets included: for a pipe, never for an argument or a file."""
        values = self.model_dump(mode="json", exclude={"admin_key"})
        values["data_dir"] = str(self.data_dir.resolve())
        if self.database_url is not None:
            values["database_url"] = self.database_url.get_secret_value()
        if self.qdrant.api_key is not None:
            values["qdrant"]["api_key"] = self.qdrant.api_key.get_secret_value()
        return values


def read_settings(**given: Any) -> Settings:
    """Raises SettingsError that names every wrong setting, its value and what is expected."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc'])} = {_shown(item)}: {item['msg']}" for item in error.errors()
        ]
        raise SettingsError("settings: " + "; ".join(problems)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"settings: clickloop.toml cannot be read: {error}") from None
    except SourceError as error:
        raise SettingsError(f"settings: {error}: give a JSON value") from None


def existing_settings(**given: Any) -> Settings:
    """For a command that reads or changes a service that is there. Raises SettingsError where none is."""
    settings = read_settings(**given)
    # A mistyped folder would look like that of a service in which nothing has happened yet.
    if settings.database_url is None and not os.path.exists(settings.data_dir / DATABASE):
        raise SettingsError(
            f"settings: data_dir = {str(settings.data_dir)!r}: there is no {DATABASE} in it: name the folder of a "
            "service, or begin one there with `clickloop ingest` or `clickloop serve`"
        )
    return settings


def own_settings(**given: Any) -> Settings:
    """For a service that a command makes for itself. Raises SettingsError where others would get what it writes."""
    settings = read_settings(**given)
    found = []
    if settings.database_url is not None:
        found.append(f"database_url names a {make_url(settings.url()).get_backend_name()} database")
    if settings.qdrant.url is not None:
        found.append("qdrant.url names a Qdrant server")
    if found:
        raise SettingsError(
            f"settings: {' and '.join(found)}, and this command writes documents, searches and models of its own: "
            "unset it for this command, in the environment and in clickloop.toml"
        )
    return settings


def cron_trigger(cron: str, timezone: str) -> Any:
    """Of apscheduler, which counts weekdays from Monday and is given the names of cron's. Raises ValueError."""
    from apscheduler.triggers.cron import CronTrigger

    fields = cron.split()
    fields[4:] = [_weekdays(field) for field in fields[4:]]
    return CronTrigger.from_crontab(" ".join(fields), timezone)


def _weekdays(field: str) -> str:
    if "/" in field:
        raise ValueError("name the weekdays instead of steps: mon,wed,fri")
    from_monday = re.sub(r"\b0+-", "0,1-", field)  # apscheduler's weeks end with Sunday
    return re.sub(r"\b0*[0-7]\b", lambda number: WEEKDAYS[int(number[0])], from_monday)


def _unknown_variables() -> Iterator[str]:
    """Names and remedies, without values: they may be misspelt secrets."""
    fields = Settings.model_fields
    inner = [f"{name}__{part}" for name in fields for part in getattr(fields[name].annotation, "model_fields", ())]
    for variable in sorted(os.environ):
        if not variable.upper().startswith(PREFIX):
            continue
        name = variable[len(PREFIX) :].lower()
        if name.partition("__")[0] not in fields and not FOREIGN.fullmatch(name):
            nearest = difflib.get_close_matches(name, [*fields, *inner], 1)
            remedy = f"did you mean {PREFIX}{nearest[0].upper()}?" if nearest else "unset it"
            yield f"{variable} is no setting: {remedy}"


def _shown(item: Any) -> str:
    """A text under an unknown name may be a misspelt secret."""
    unknown = item["type"] == "extra_forbidden" and not isinstance(item.get("input"), int | float)
    secret = unknown or bool(SECRETS & set(item["loc"]))
    return "(hidden)" if secret else repr(item.get("input"))[:80]
