"""Turns the docstrings of the running Python's standard library into searchable documents."""

from __future__ import annotations

import enum
import importlib
import inspect
import os
import pkgutil
import re
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

UNWANTED = """
    antigravity curses distutils ensurepip genericpath idlelib lib2to3 msilib nt ntpath nturl2path
    posix posixpath pydoc_data readline rlcompleter site sre_compile sre_constants sre_parse test
    this tkinter turtle turtledemo xxlimited xxlimited_35 xxsubtype
"""
SKIPPED_MODULES = frozenset(UNWANTED.split())
SKIPPED_PARTS = frozenset({"test", "tests", "encodings"})
IMPLICIT_PARAMETERS = frozenset({"self", "cls", "type"})
GENERATED_TEXTS = ("Alias for field number", "An enumeration.")
LOCAL_DEFAULT = re.compile(r"=(?:'/[^']*/[^']*'|[\[(]*<.*?>[\])]*)(?=[,)])")
TEXT_LIMIT = 600
TITLE_LIMIT = 160

Rank = tuple[int | str | bool, ...]


class Entry(NamedTuple):
    """One name under which an object can be reached; the lowest rank is the best-known name."""

    rank: Rank
    name: str
    value: Any


def documents() -> list[dict[str, str]]:
    """Return one document (id, title, text) per documented public object, sorted by id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best: dict[int, Entry] = {}
        for module_name, module in _modules():
            _offer(best, module, Entry((-1, len(module_name)), module_name, module))
            for entry in _module_members(module_name, module):
                _offer(best, entry.value, entry)
        classes = {key: entry for key, entry in best.items() if isinstance(entry.value, type)}
        for entry in classes.values():
            for member in _class_members(entry, classes.keys()):
                _offer(best, member.value, member)
        found = {entry.name: entry.value for entry in best.values()}
        made = (_document(name, found[name]) for name in sorted(found))
        return [document for document in made if document is not None]


def _offer(best: dict[int, Entry], value: Any, entry: Entry) -> None:
    """Keep the entry if it is the best name so far for the value."""
    known = best.get(id(value))
    if known is None or entry.rank < known.rank:
        best[id(value)] = entry


def _modules() -> Iterator[tuple[str, types.ModuleType]]:
    """Import and yield the public modules that this platform has."""
    yield "os.path", os.path
    waiting = sorted(sys.stdlib_module_names - SKIPPED_MODULES, reverse=True)
    while waiting:
        name = waiting.pop()
        if any(part.startswith("_") for part in name.split(".")):
            continue
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit):
            continue
        yield name, module
        if name.rpartition(".")[2] not in SKIPPED_PARTS:
            found = pkgutil.iter_modules(getattr(module, "__path__", []))
            parts = (part.name for part in found if part.name not in SKIPPED_PARTS)
            waiting.extend(f"{name}.{part}" for part in parts)


def _module_members(module_name: str, module: types.ModuleType) -> Iterator[Entry]:
    """Yield the public objects that belong to a module, not those it merely imports."""
    listed = frozenset(getattr(module, "__all__", ()))
    root = module_name.partition(".")[0]
    for attribute in sorted(listed.union(vars(module))):
        raw = _attribute(module, attribute)
        if attribute.startswith("_") or raw is None or isinstance(raw, types.ModuleType):
            continue
        value = _unwrapped(raw)
        home = getattr(value, "__module__", None)
        at_home = isinstance(home, str) and home.partition(".")[0].lstrip("_") == root
        builtin = module_name == "builtins"
        if not (builtin or at_home or attribute in listed):
            continue
        name = attribute if builtin else f"{module_name}.{attribute}"
        renamed = attribute != getattr(value, "__name__", attribute)
        rank = (not builtin, 0, renamed, not at_home, name.count("."), len(name), name)
        yield Entry(rank, name, value)


def _class_members(owner: Entry, public: Any) -> Iterator[Entry]:
    """Yield what a class defines itself or takes from bases that have no public name."""
    seen: set[str] = set()
    for depth, base in enumerate(owner.value.__mro__):
        elsewhere = base is object or (depth > 0 and id(base) in public)
        for attribute, raw in sorted(vars(base).items()):
            hidden = attribute.startswith("_") or attribute in seen
            seen.add(attribute)
            if hidden or elsewhere or isinstance(raw, (type, types.ModuleType)):
                continue
            name = f"{owner.name}.{attribute}"
            renamed = attribute != getattr(raw, "__name__", attribute)
            rank = (True, 1 + depth, renamed, name.count("."), len(name), name)
            yield Entry(rank, name, _unwrapped(raw))


def _unwrapped(value: Any) -> Any:
    """Return the function behind a bound, static or class method, else the value itself."""
    if isinstance(value, (types.MethodType, staticmethod, classmethod)):
        return value.__func__
    if isinstance(value, types.BuiltinMethodType):
        bound_to = value.__self__
        if bound_to is not None and not isinstance(bound_to, (types.ModuleType, type)):
            return getattr(type(bound_to), value.__name__, value)
    return value


def _attribute(holder: Any, name: str) -> Any:
    """Return an attribute, or None where reading it fails, as lazy ones may."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def _document(name: str, value: Any) -> dict[str, str] | None:
    """Describe one object, or return None if it has no docstring of its own."""
    doc = _attribute(value, "__doc__")
    bases: tuple[type, ...] = (type(value),)
    if isinstance(value, type):
        bases = value.__mro__[1:]
        initializer = vars(value).get("__init__")
        if doc is None and isinstance(initializer, types.FunctionType):
            doc = initializer.__doc__
    if not isinstance(doc, str) or any(doc == base.__doc__ for base in bases):
        return None
    text = _shortened(inspect.cleandoc(doc).strip())
    if not text or text.startswith(GENERATED_TEXTS):
        return None
    return {"id": name, "title": name + _signature(value), "text": text}


def _signature(value: Any) -> str:
    """Return the call signature without annotations, or nothing if there is none."""
    if not callable(value) or isinstance(value, enum.EnumMeta):
        return ""
    try:
        signature = inspect.signature(value)
    except Exception:
        return ""
    kept = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    is_method = "." in getattr(value, "__qualname__", "")
    if is_method and kept and kept[0].name in IMPLICIT_PARAMETERS:
        del kept[0]
    shown = str(inspect.Signature(kept))
    shown = LOCAL_DEFAULT.sub("=...", shown).replace(", /", "")
    return shown if len(shown) <= TITLE_LIMIT else "(...)"


def _shortened(text: str) -> str:
    """Cut a long text after a paragraph if one ends late enough, else after a word."""
    if len(text) <= TEXT_LIMIT:
        return text
    head = text[:TEXT_LIMIT]
    paragraph = head.rfind("\n\n")
    return head[:paragraph] if paragraph > TEXT_LIMIT // 2 else head.rsplit(None, 1)[0]
