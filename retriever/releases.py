"""Releases and their builds."""

import dataclasses
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import func, select

from .database import Database
from .encoder import TorchEncoder, has_bfloat16
from .errors import ModelError, NoRoom, NotFound
from .export import export_artefacts, quantise
from .index import IndexStore
from .model import sha256
from .pointer import Switch, add_switch, switch_columns
from .prompts import prompts_of
from .schema import builds, challenger, live, releases, runs, switches
from .serving import EXPORT, QUANTISED, TEMPLATE, WHOLE, Encoder, OnnxEncoder, artefacts
from .types import Build, Release
from .vectors import VectorLog

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


log = logging.getLogger(__name__)

WRITTEN = 3  # times the bytes of a model's weights, at most, are on the disk while a release is made
# Documents, the pointer, wishes to move it, the challenger, and builds that nobody needs.
NEWS = """SELECT
    (SELECT value FROM counters WHERE name = 'revision'),
    (SELECT build_id FROM live),
    (SELECT min(id) FROM switches WHERE state = 'requested'),
    (SELECT build_id FROM challenger),
    (SELECT min(id) FROM builds WHERE state = 'rejected')"""


class Releases:
    """Folders of releases under `folder`, and the rows about them and their builds."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def folder(self, release_id: str) -> Path:
        return self._folder / release_id

    def vectors(self, release: Release) -> VectorLog:
        """The document vectors of this release."""
        return VectorLog(self.folder(release.id) / "documents.vectors", release.dimension)

    def encoder(self, release: Release) -> Encoder:
        """The one that answers queries of this release. Raises ModelError."""
        kind = TorchEncoder if release.engine == "torch" else OnnxEncoder
        return kind(self.folder(release.id), release)

    def corpus_encoder(self, release: Release) -> Encoder:
        """The fastest one for many documents: torch with bf16 where there is some, otherwise the one that serves."""
        return TorchEncoder(self.folder(release.id), release) if has_bfloat16() else self.encoder(release)

    def make(
        self,
        model: "SentenceTransformer",
        *,
        parent: str | None,
        lineage: Mapping[str, Any],
        release_id: str | None = None,
        quantised: bool = False,
    ) -> Release:
        """Exports the model into a folder of its own, metadata last, and records it. `quantised`: queries are encoded
        with a byte for each weight, where that can be exported. Raises NoRoom.
        """
        release_id = release_id or new_id("release")
        with self._new_folder(release_id) as folder:
            _check_room("a release", WRITTEN * sum(weight.nbytes for weight in model.parameters()), folder)
            engine = export_artefacts(model, folder, self.folder(parent) if parent else None)
            if quantised and engine == WHOLE:
                engine = _quantised(folder)
            query_prompt, document_prompt = prompts_of("", model.prompts or {})
            release = Release(
                id=release_id,
                parent=parent,
                dimension=int(model.get_embedding_dimension() or 0),
                template=TEMPLATE,
                query_prompt=query_prompt,
                document_prompt=document_prompt,
                max_tokens=int(model.max_seq_length or 512),
                engine=engine,
                checksums={},
                lineage=dict(lineage),
                created_at=time.time(),
            )
            return self._finish(release)

    def quantised(self, release: Release) -> Release:
        """A release of the same model whose queries are encoded with a byte for each weight, with all document vectors,
        which are the same. Raises ModelError and NoRoom.
        """
        release_id, source = new_id("release"), self.folder(release.id)
        needed = 2 * sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        _check_room("a quantised release", needed, source)
        with self._new_folder(release_id) as folder:
            shutil.copytree(source / "model", folder / "model")
            for name in (*artefacts(release.checksums, EXPORT), "tokenizer.json"):
                shutil.copyfile(source / name, folder / name)
            quantise(folder)
            lineage = {**release.lineage, "quantised": release.id}
            made = dataclasses.replace(
                release, id=release_id, parent=release.id, engine=QUANTISED, lineage=lineage, created_at=time.time()
            )
            made = self._finish(made)
            self.vectors(release).copy_to(self.vectors(made))
            return made

    @contextmanager
    def _new_folder(self, release_id: str) -> Iterator[Path]:
        """An empty one, which is removed where the block fails."""
        folder = self.folder(release_id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _finish(self, release: Release) -> Release:
        """With the checksums of all its files, written down last and recorded."""
        folder = self.folder(release.id)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        checksums = {str(path.relative_to(folder)): sha256(path) for path in files}
        release = dataclasses.replace(release, checksums=checksums)
        write_whole(folder / "release.json", orjson.dumps(dataclasses.asdict(release), option=orjson.OPT_INDENT_2))
        self.record(release)
        return release

    def record(self, release: Release) -> None:
        row = {"id": release.id, "created_at": release.created_at}
        with self._database.write() as connection:
            connection.execute(self._database.insert(releases).on_conflict_do_nothing(), row)

    def whole(self, release_id: str) -> bool:
        """Whether the folder of this release was finished."""
        return (self.folder(release_id) / "release.json").exists()

    def get(self, release_id: str) -> Release:
        """Raises ModelError when the folder is gone or unreadable."""
        path = self.folder(release_id) / "release.json"
        try:
            return Release(**orjson.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(
                f"release {release_id} cannot be read from {path} ({error}): restore the folder from a backup, "
                "or roll back to another release"
            ) from error

    def list(self) -> list[Release]:
        """The newest first, by the clock at which each was made: if that was set back, not the order they came in."""
        with self._database.read() as connection:
            ids = connection.scalars(select(releases.c.id).order_by(releases.c.created_at.desc())).all()
        return [self.get(release_id) for release_id in ids if self.whole(release_id)]

    def add_build(self, release_id: str, build_id: str | None = None) -> Build:
        """Under a given id it takes the place of an interrupted attempt."""
        build = Build(build_id or new_id("build"), release_id, "building", 0, time.time())
        with self._database.write() as connection:
            connection.execute(builds.delete().where(builds.c.id == build.id))
            connection.execute(builds.insert(), dataclasses.asdict(build))
        return build

    def build(self, build_id: str) -> Build:
        with self._database.read() as connection:
            row = connection.execute(select(builds).where(builds.c.id == build_id)).one_or_none()
        if row is None:
            raise NotFound("build", build_id)
        return Build(**row._mapping)

    def builds(self, state: str | None = None) -> Sequence[Build]:
        """The newest first."""
        statement = select(builds).order_by(builds.c.created_at.desc(), builds.c.id.desc())
        if state is not None:
            statement = statement.where(builds.c.state == state)
        with self._database.read() as connection:
            return [Build(**row._mapping) for row in connection.execute(statement)]

    def retired(self) -> Sequence[Build]:
        """Builds that were live, the one that was so last first."""
        left = (  # by the numbers of switches, which grow also where the clock is set back
            select(switches.c.former_build_id, func.max(switches.c.id).label("number"))
            .where(switches.c.state == "done", switches.c.former_build_id != switches.c.build_id)
            .group_by(switches.c.former_build_id)
            .subquery()
        )
        statement = (
            select(builds)
            .outerjoin(left, left.c.former_build_id == builds.c.id)
            .where(builds.c.state == "retired")
            .order_by(left.c.number.desc(), builds.c.id.desc())
        )
        with self._database.read() as connection:
            return [Build(**row._mapping) for row in connection.execute(statement)]

    def newest_build(self, release_id: str) -> Build:
        """The build that answers from this release, or would after a rollback: one that was live."""
        with self._database.read() as connection:
            known = connection.scalar(select(releases.c.id).where(releases.c.id == release_id))
        if known is None:
            raise NotFound("release", release_id)
        present = self.live()
        for build in [*([] if present is None else [present]), *self.retired()]:
            if build.release_id == release_id:
                return build
        raise NotFound("a kept build of release", release_id)

    def forget_build(self, build_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(builds.delete().where(builds.c.id == build_id))

    def first(self) -> Release | None:
        """The model that everything began with, which has no parent: training starts from it. None where its folder was
        lost.
        """
        return next((release for release in reversed(self.list()) if release.parent is None), None)

    def drop_unused(self, release_id: str) -> None:
        """Removes the folder of a release that has no build any more; of the first one only the vectors."""
        if any(build.release_id == release_id for build in self.builds()):
            return
        first = self.first()
        if first is not None and first.id == release_id:
            self.vectors(first).drop()
        else:
            shutil.rmtree(self.folder(release_id), ignore_errors=True)

    def drop_half_made(self) -> None:
        """Removes the folders of releases that were never finished. One that was is left, also if files are missing: it
        may be on its way back from a backup.
        """
        with self._database.read() as connection:
            known = set(connection.scalars(select(releases.c.id)))
        # Before the first one is known somebody may still be making it.
        for folder in self._folder.glob("release-*") if known else ():
            if folder.name not in known and not self.whole(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def live(self) -> Build | None:
        with self._database.read() as connection:
            row = connection.execute(select(builds).join(live, live.c.build_id == builds.c.id)).one_or_none()
        return None if row is None else Build(**row._mapping)

    def challenger_build(self) -> Build | None:
        """The build whose results some people see beside those of the live one, which it challenges."""
        present = select(builds.c.release_id).join(live, live.c.build_id == builds.c.id).scalar_subquery()
        found = select(builds).join(challenger, challenger.c.build_id == builds.c.id)
        with self._database.read() as connection:
            row = connection.execute(found.where(challenger.c.champion_id == present)).one_or_none()
        return None if row is None else Build(**row._mapping)

    def run_is_active(self) -> bool:
        with self._database.read() as connection:
            return connection.scalar(select(runs.c.id).where(runs.c.state == "running").limit(1)) is not None

    def request_switch(self, build_id: str, reason: str, requested_by: str, run_id: str | None = None) -> int:
        """Asks the owner to make this build live; returns the number of the wish."""
        with self._database.write() as connection:
            return add_switch(connection, build_id, reason, requested_by, run_id)

    def switch(self, switch_id: int) -> Switch:
        with self._database.read() as connection:
            row = connection.execute(switch_columns().where(switches.c.id == switch_id)).one()
        return Switch(*row)

    def switch_of_run(self, run_id: str) -> Switch | None:
        """The newest wish that belongs to this run."""
        statement = switch_columns().where(switches.c.run_id == run_id).order_by(switches.c.id.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else Switch(*row)

    def wanted(self) -> Switch | None:
        """The oldest wish that nobody has answered."""
        statement = switch_columns().where(switches.c.state == "requested").order_by(switches.c.id).limit(1)
        with self._database.read() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else Switch(*row)

    def news(self) -> tuple[object, ...]:
        """Differs from what it was whenever something came that the owner of the index acts on."""
        return self._database.row(NEWS)

    def former(self) -> str:
        """The release that was live before the present one. Raises NotFound when there is none."""
        for build in self.retired():
            return build.release_id
        raise NotFound("release", "before the present one")


def _check_room(what: str, needed: int, folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise NoRoom(what, needed, free, folder)


def _quantised(folder: Path) -> str:
    """The engine that can serve the exported encoder in this folder: a release is never blocked by this."""
    try:
        quantise(folder)
    except ModelError as error:
        log.warning("%s: its queries are encoded in fp32", error)
        return WHOLE
    return QUANTISED


def drop_half_made(releases: Releases, store: IndexStore) -> None:
    """Removes the builds and releases that were interrupted while they were made, and, where nobody else keeps any,
    indexes that no build knows. The caller holds the lock of the nightly run.
    """
    known = releases.builds()
    for build in known:
        if build.state == "building":
            store.drop(build.id)
            releases.forget_build(build.id)
    strays = set(store.names()) - {build.id for build in known}  # also says that no server answers
    for name in strays if store.exclusive else ():
        store.drop(name)
    releases.drop_half_made()


def new_id(kind: str) -> str:
    """Sortable by time and safe as a file name."""
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def write_whole(path: Path, content: bytes) -> None:
    """The file appears complete or not at all."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
