"""The command line. Libraries are loaded by the command that needs them, so that `--help` answers at once."""

import os
import select
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .folder import DataDir, EmptiedDir, begun, existing

if TYPE_CHECKING:
    from .loop import ClickLoop

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Semantic search that learns from its own users.",
)
keys_app = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(keys_app, name="keys")
audit_app = typer.Typer(no_args_is_help=True, help="The ledger of decisions, approvals and switches.")
app.add_typer(audit_app, name="audit")


PROMOTED, FAILED, NOT_PROMOTED, ACTIVE, INTERRUPTED = 0, 1, 3, 4, 130


def main() -> None:
    """Turns our own errors into one line and exit status 1; that nobody reads on, as after `| head`, is none."""
    from ..retriever.errors import ClickLoopError

    try:
        app()
    except ClickLoopError as error:
        print(f"clickloop: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except SystemExit as ended:  # typer has made one of what interrupted the command, too
        if ended.code == INTERRUPTED:
            print("clickloop: interrupted; what was acknowledged is kept", file=sys.stderr)
        if _unread():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter would fail to write the rest
            if isinstance(ended.__context__, BrokenPipeError):
                sys.exit(0)
        raise


def _unread() -> bool:
    """Whether whoever read the output has left."""
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    data_dir: DataDir = None,
) -> None:
    """API, admin pages and schedule."""
    from .serve import serve as run

    run(begun(data_dir), host, port)


@app.command()
def worker(data_dir: DataDir = None) -> None:
    """Schedule and nightly runs apart from the API."""
    from .serve import work

    work(begun(data_dir))


@app.command()
def demo(
    nights: Annotated[int, typer.Option(min=1, max=20, help="the last of two or more carries no information")] = 2,
    data_dir: EmptiedDir = Path("clickloop-demo"),
) -> None:
    """The whole loop on the Python standard library's documentation, with simulated people."""
    from .demo import demo as run

    raise typer.Exit(run(nights, data_dir))


@app.command()
def ingest(
    file: Annotated[str, typer.Argument(help="JSON lines, .gz too; - reads standard input")],
    data_dir: DataDir = None,
    wait: Annotated[bool, typer.Option(help="return when the documents can be found")] = True,
) -> None:
    """Adds documents: {"_id" or "id", "title", "text", …} a line. Other fields become the payload."""
    from .ingest import ingest as run

    raise typer.Exit(run(begun(data_dir), file, wait))


@app.command()
def train(
    json: Annotated[bool, typer.Option("--json", help="print the run as JSON")] = False, data_dir: DataDir = None
) -> None:
    """One nightly run now. Exit status: 0 promoted, 3 not promoted or waiting, 4 another run is active, 1 failed."""
    import orjson

    from ..retriever.errors import Conflict
    from ..trainer.nightly import Busy
    from .progress import Steps
    from .schemas import run_json

    loop = begun(data_dir)
    try:
        with Steps() as steps:
            run = loop.run_night((loop.runs.unfinished() or loop.runs.queue("cli")).id, steps.show)
    except (Busy, Conflict) as error:
        print(f"clickloop: {error}", file=sys.stderr)
        raise typer.Exit(ACTIVE) from None
    if json:
        print(orjson.dumps(run_json(run), option=orjson.OPT_INDENT_2).decode())
    else:
        print(f"{run.id}: {run.outcome}")
        for reason in run.reasons:
            print(f"  {reason}")
    raise typer.Exit({"promoted": PROMOTED, "failed": FAILED}.get(run.outcome or "", NOT_PROMOTED))


@app.command()
def runs(limit: Annotated[int, typer.Option(min=1, max=1_000_000)] = 20, data_dir: DataDir = None) -> None:
    """The newest nightly runs."""
    found, more = existing(data_dir).runs.page(limit)
    for run in found:
        print(f"{run.id}  {run.state:9}  {run.outcome or run.step:20}  {'; '.join(run.reasons[-1:])}")
    if not found:
        print("no run yet; `clickloop train` starts one")
    if more:
        print("… older ones: --limit")


@app.command()
def report(
    run: str,
    html: Annotated[Path | None, typer.Option(help="write the page to this file")] = None,
    data_dir: DataDir = None,
) -> None:
    """Why a run decided as it did."""
    from ..retriever.errors import InvalidInput

    loop = existing(data_dir)
    found = loop.runs.get(run)
    if html is not None:
        try:
            html.write_text(loop.reports.html(found), encoding="utf-8")
        except OSError as error:
            raise InvalidInput("--html", str(html), f"it cannot be written ({error.strerror})") from None
        print(html)
        return
    print(f"{found.id}: {found.outcome or found.state}")
    for reason in found.reasons:
        print(f"  {reason}")
    metrics = found.details.get("metrics", {})
    for name, value in metrics.get("champion", {}).items():
        print(f"  {name:8} {value:.4f} → {metrics['candidate'][name]:.4f}  ({metrics['delta'][name]:+.4f})")
    for name, value in found.details.get("mining", {}).items():
        print(f"  {name.replace('_', ' ')}: {value}")


@app.command()
def approve(run: str, data_dir: DataDir = None) -> None:
    """Makes the model of a run that waits for approval the live one."""
    loop = existing(data_dir)
    loop.runs.approve(run, "cli")
    switch = loop.releases.switch_of_run(run)
    assert switch is not None
    _await_switch(loop, switch.id)


@app.command()
def reject(run: str, data_dir: DataDir = None) -> None:
    """Ends a run that waits for approval; the present model stays."""
    existing(data_dir).runs.reject(run, "cli")
    print(f"{run}: rejected")


@app.command()
def releases(data_dir: DataDir = None) -> None:
    """The models that were made, the newest first."""
    from .routes import releases_json

    found = releases_json(existing(data_dir).releases)
    if not found:
        print("no release yet; the first `clickloop ingest` or `clickloop serve` makes one")
    for release in found:
        state = "live" if release["live"] else "kept" if release["can_roll_back_to"] else ""
        print(f"{release['id']}  {state:4}  from {release['parent'] or release['lineage'].get('model')}")


@app.command()
def rollback(
    release: Annotated[str | None, typer.Argument(help="default: the one that was live before")] = None,
    data_dir: DataDir = None,
) -> None:
    """Answers from a former release again, with all documents of today."""
    loop = existing(data_dir)
    build = loop.releases.newest_build(release or loop.releases.former())
    _await_switch(loop, loop.releases.request_switch(build.id, "rollback", "cli"))


@app.command()
def quantise(
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="loss of reciprocal rank, or golden nDCG@10, that is still harmless")
    ] = 0.02,
    data_dir: DataDir = None,
) -> None:
    """Encodes queries with a byte for each weight, if that is found to be harmless. Exit status 3 where it is not."""
    from ..trainer.quantise import DEPTH
    from .progress import Steps

    loop = existing(data_dir)
    with Steps() as steps:
        found = loop.quantiser().run(tolerance, steps.show)
    for guard in found.guards:
        print(guard.says())
    print(f"of the {DEPTH} best documents {found.same:.1%} are found by both, for {len(found.texts)} queries")
    if found.switch is None:
        print("not harmless here, or not shown to be: queries are encoded in fp32 as before")
        raise typer.Exit(NOT_PROMOTED)
    _await_switch(loop, found.switch)


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a BEIR folder with qrels/train.tsv and test.tsv")],
    nights: Annotated[int, typer.Option(min=1)] = 3,
    sessions: Annotated[int, typer.Option(min=1, help="a night, each one search by somebody else")] = 4_000,
    people: Annotated[str, typer.Option(help="how they click: position, cascade or trust")] = "position",
    position_bias: Annotated[float, typer.Option(min=0, help="a result at rank r is looked at with r^-E")] = 1.0,
    noise: Annotated[float, typer.Option(min=0, max=1, help="share of wrong results looked at that are clicked")] = 0.1,
    bots: Annotated[float, typer.Option(min=0, max=1, help="share of the sessions that robots make")] = 0.0,
    farms: Annotated[int, typer.Option(min=0, help="click farms, each of which pushes one document")] = 0,
    farm_share: Annotated[float, typer.Option(min=0, max=0.9, help="of all sessions, on top of the others")] = 0.2,
    rotating: Annotated[bool, typer.Option("--rotating", help="farms use ever new client ids")] = False,
    no_information: Annotated[bool, typer.Option("--no-information", help="people click by rank alone")] = False,
    exploration: Annotated[float | None, typer.Option(help="overrides exploration.share")] = None,
    oracles: Annotated[bool, typer.Option(help="also train on what perfect knowledge would mine")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="minutes: 2 short nights, one training each")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="write all figures to this file")] = None,
    data_dir: EmptiedDir = Path("clickloop-simulation"),
) -> None:
    """The real loop on a BEIR folder, with simulated people."""
    from .plan import QUICK, Plan
    from .simulate import simulate as run

    plan = Plan(
        nights=nights,
        sessions=sessions,
        people=people,
        position_bias=position_bias,
        noise=noise,
        senseless=no_information,
        bots=bots,
        farms=farms,
        farm_share=farm_share,
        rotating=rotating,
        exploration=exploration,
        oracles=oracles,
        seed=seed,
    )
    run(folder, data_dir, replace(plan, **QUICK) if quick else plan, json)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a BEIR folder")],
    split: Annotated[str, typer.Option(help="which qrels/SPLIT.tsv")] = "test",
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    data_dir: DataDir = None,
) -> None:
    """How well the live release answers the queries of a BEIR folder, by its relevance judgments."""
    from .evaluate import evaluate as run

    run(existing(data_dir), folder, split, json)


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="default: all")] = None,
    data: Annotated[Path | None, typer.Option(help="a BEIR folder; default: the demo's documents")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
    plots: Annotated[Path | None, typer.Option(help="write drawings into this folder")] = None,
    peers: Annotated[
        Path | None,
        typer.Option(help="a Python with the packages of bench-peers.txt; default: this one, if it has them"),
    ] = None,
) -> None:
    """The project's benchmarks."""
    from .bench import Given
    from .bench import bench as run

    run(names or [], json, Given(data, plots, peers))


@audit_app.command("verify")
def audit_verify(data_dir: DataDir = None) -> None:
    """Whether no entry was changed, removed or inserted. Exit status 1 when one was."""
    from ..retriever.ledger import entries, verify

    loop = existing(data_dir)
    problems = verify(loop.database)
    for problem in problems:
        print(f"clickloop: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(FAILED)
    found = entries(loop.database)
    print(f"{len(found)} entries, unbroken; the newest hash is {found[-1].hash if found else 'none'}")


@audit_app.command("list")
def audit_list(data_dir: DataDir = None) -> None:
    """All entries, the oldest first: one JSON object a line."""
    from dataclasses import asdict

    import orjson

    from ..retriever.ledger import entries

    for entry in entries(existing(data_dir).database):
        print(orjson.dumps({**asdict(entry), "content": orjson.loads(entry.content)}).decode())


@audit_app.command("live")
def audit_live(
    at: Annotated[str | None, typer.Option(help="ISO 8601, UTC where it names no zone; default: now")] = None,
    data_dir: DataDir = None,
) -> None:
    """What answered searches at a moment, who moved the pointer there, and why."""
    from .audit import live_at, moment

    for line in live_at(existing(data_dir).database, None if at is None else moment(at)):
        print(line)


@keys_app.command("create")
def keys_create(role: Annotated[str, typer.Option(help="search, write or admin")], data_dir: DataDir = None) -> None:
    """Makes a key and prints it once."""
    key_id, secret = begun(data_dir).keys.create(role)
    print(f"id: {key_id}", file=sys.stderr)
    print(secret)


@keys_app.command("list")
def keys_list(data_dir: DataDir = None) -> None:
    """All keys, without their secrets."""
    found = existing(data_dir).keys.list()
    if not found:
        print("no key yet; `clickloop keys create` makes one")
    for key in found:
        print(f"{key.id}  {key.role:6}  {'revoked' if key.revoked_at else 'valid'}")


@keys_app.command("revoke")
def keys_revoke(key: str, data_dir: DataDir = None) -> None:
    """A revoked key is refused within a second."""
    existing(data_dir).keys.revoke(key)
    print(f"{key}: revoked")


def _await_switch(loop: "ClickLoop", number: int) -> None:
    from ..retriever.errors import Conflict
    from ..retriever.owner import await_switch

    switch = await_switch(loop.releases, number, loop.make_owner)
    if switch.state != "done":
        raise Conflict(f"the switch was refused: {switch.error}")
    print(f"live: {switch.build_id}")


if __name__ == "__main__":
    main()
