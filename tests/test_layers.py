"""Who may import whom: plugin → trainer → retriever, never back, and outside packages only in their own layer."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "plugin": {"plugin", "trainer", "retriever"},
    "trainer": {"trainer", "retriever"},
    "retriever": {"retriever"},
}
ONLY_IN = {
    "plugin": {"fastapi", "starlette", "uvicorn", "apscheduler", "jinja2", "typer", "pydantic_settings"},
    "retriever": {"qdrant_client", "qdrant_edge", "faiss"},
}
HEAVY = {"torch", "sentence_transformers", "transformers", "datasets"}
PEERS = ("plugin", "peers")  # programs of their own, which the benchmark runs in another environment
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
READS = tuple(f"os.{name}" for name in sorted(ENVIRONMENT))
IMPORT_ALL = """
import importlib, sys
import clickloop.plugin
for name in sys.argv[1:]:
    importlib.import_module("clickloop.plugin." + name)
heavy = {"torch", "sentence_transformers", "transformers", "datasets", "faiss"}
print(*sorted(heavy & set(sys.modules)))
"""


def violations(root: Path) -> list[str]:
    """One line for every import or access in the three folders that breaks a rule."""
    found = []
    for layer in MAY_IMPORT:
        for path in sorted((root / layer).rglob("*.py")):
            place = path.relative_to(root)
            if place.parts[:2] == PEERS:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(place))
            for line, fault in faults(tree, place):
                found.append(f"{place.as_posix()}:{line} {fault}")
    return found


def faults(tree: ast.Module, place: Path) -> Iterator[tuple[int, str]]:
    layer = place.parts[0]
    heavy_allowed = layer == "trainer" or place.as_posix() in ("retriever/encoder.py", "retriever/export.py")
    for_types = {id(inner) for block in ast.walk(tree) if type_checking(block) for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute):
            continue
        for module in imported(node, place):
            top, *rest = module.split(".")
            if top == "clickloop" and rest and rest[0] in MAY_IMPORT and rest[0] not in MAY_IMPORT[layer]:
                yield node.lineno, f"{layer} imports {module}"
            if any(top in owned and layer != owner for owner, owned in ONLY_IN.items()):
                yield node.lineno, f"{layer} imports {module}"
            if top in HEAVY and not heavy_allowed and id(node) not in for_types:
                yield node.lineno, f"{place.stem} imports {module}"
            if layer != "plugin" and top == "os" and rest and rest[0] in ENVIRONMENT:
                yield node.lineno, f"{layer} uses {module}"
        if layer != "plugin" and isinstance(node, ast.Attribute) and ast.unparse(node).startswith(READS):
            yield node.lineno, f"{layer} uses {ast.unparse(node)}"


def imported(node: ast.AST, place: Path) -> list[str]:
    """The absolute names an import statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = ("clickloop", *place.parent.parts)
        base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
    return [f"{base}.{alias.name}" for alias in node.names]


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def test_every_layer_keeps_to_its_side() -> None:
    assert violations(ROOT) == []


PLANTS = [
    ("retriever/planted.py", "from ..trainer import nightly"),
    ("retriever/planted.py", "def later() -> None:\n    from clickloop.plugin import ClickLoop"),
    ("retriever/planted.py", "from .. import plugin"),
    ("retriever/migrations/planted.py", "from ...plugin.settings import Settings"),
    ("trainer/planted.py", "import clickloop.plugin.cli"),
    ("trainer/planted.py", "from fastapi import FastAPI"),
    ("trainer/planted.py", "import apscheduler.schedulers.background"),
    ("trainer/planted.py", "import os\n\nHOME = os.environ['HOME']"),
    ("trainer/planted.py", "from os import getenv"),
    ("trainer/planted.py", "import faiss"),
    ("plugin/planted.py", "from qdrant_client import QdrantClient"),
    ("plugin/planted.py", "import torch"),
    ("retriever/planted.py", "from sentence_transformers import SentenceTransformer"),
]


@pytest.mark.parametrize(("file", "source"), PLANTS)
def test_a_planted_violation_is_reported(tmp_path: Path, file: str, source: str) -> None:
    for layer in MAY_IMPORT:
        shutil.copytree(ROOT / layer, tmp_path / layer, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / file).write_text(source + "\n", encoding="utf-8")
    assert [line for line in violations(tmp_path) if line.startswith(f"{file}:")]


def test_imports_for_types_alone_cost_nothing(tmp_path: Path) -> None:
    for layer in MAY_IMPORT:
        (tmp_path / layer).mkdir()
    source = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import torch\n"
    (tmp_path / "retriever" / "planted.py").write_text(source, encoding="utf-8")
    assert violations(tmp_path) == []


def test_importing_the_plugin_loads_no_training_library() -> None:
    names = sorted(path.stem for path in (ROOT / "plugin").glob("*.py") if not path.stem.startswith("__"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []
