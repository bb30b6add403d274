"""What a program can check of how this repository is written: layers, sizes, docstrings, things said twice."""

from __future__ import annotations

import ast
import json
import os
import re
import tomllib
from enum import IntEnum
from pathlib import Path

import pytest

import scanengine
from helpers import run_python
from scanengine import _core
from scanengine.model import SegmentState, Status

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scanengine"
MODULES = sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.pyi")])
NATIVE = sorted([*SOURCE.rglob("*.pyx"), *SOURCE.rglob("*.pxd")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))

LAYERS = {
    "errors": set(),
    "model": set(),
    "_core": {"errors", "model"},
    "_reference": {"errors", "model"},
    "codes": {"errors", "model", "_core"},
    "keys": {"errors", "model", "_core"},
    "tables": {"errors", "model", "_core", "codes", "keys"},
    "campaigns": {"errors", "model", "_core", "codes", "keys", "tables"},
    "_decider": {"errors", "model", "_core"},
    "engine": {"errors", "model", "_core", "codes", "keys", "tables", "campaigns", "_decider"},
    "ledger": {"errors", "model"},
    "program": {"errors", "model", "_core", "codes", "keys", "tables", "campaigns", "_decider", "engine", "ledger"},
}
"""What each part may import besides itself: what stands above it, and nothing else."""
CORE = {"_claim_keys", "_core", "_draws", "_imported", "_lanes", "_rules", "_segments", "_siphash"}
"""The native core is one part in several files."""
LAYERS["__init__"] = {"errors", "model", "engine", "program"}
LAYERS["wechat"] = {"errors"}
LAYERS["server"] = {*LAYERS} - {"_reference"}
LAYERS["load"] = {*LAYERS} - {"_reference"}
LAYERS["cli"] = {*LAYERS} - {"_reference"}
LAYERS["__main__"] = {"cli"}
LAYERS["testing"] = LAYERS["__init__"] | LAYERS["program"] | {"__init__"}

UPWARD = {"program/program.py": {"server"}}
"""``Program.web_app`` reaches up, inside the function: who embeds a program asks the program, and only then aiohttp."""

LINES_MAX, LINES_STOP, SETUP_LINES_MAX = 400, 800, 80
LONG = {"model.py", "_core.pyx", "_reference.py"}
"""Files over 400 lines; a name is taken out when its file no longer is, and none is put in."""


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].partition(".")[0]


def allowed_imports(part: str) -> set[str]:
    """Return what a part may import: itself, what stands above it, and all of the core for what may use the core."""
    allowed = LAYERS["_core" if part in CORE else part] | {part}
    return allowed | CORE if allowed & CORE else allowed


def own_imports(path: Path) -> set[str]:
    """Return the parts of ours that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "scanengine":
                names = [f"scanengine.{alias.name}" for alias in node.names]
            else:
                names = [node.module or ""]
        else:
            continue
        found |= {[*name.split("."), "__init__"][1] for name in names if name.partition(".")[0] == "scanengine"}
    # What is not a file or folder is a name of the package itself.
    return {name if (SOURCE / name).is_dir() or list(SOURCE.glob(f"{name}.*")) else "__init__" for name in found}


def imports_at_the_top(path: Path) -> set[str]:
    """Return the parts of ours that importing a module imports."""
    found = [node.module or "" for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {[*name.split("."), "__init__"][1] for name in found if name.partition(".")[0] == "scanengine"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    upward = UPWARD.get(str(path.relative_to(SOURCE)), set())
    assert own_imports(path) - upward <= allowed_imports(part_of(path))
    assert not upward & imports_at_the_top(path)


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: str(path.relative_to(SOURCE)))
def test_native_code_imports_down_only(path: Path) -> None:
    text = path.read_text("utf-8")
    found = {name.split(".")[1] for name in re.findall(r"^\s*(?:from|import|cimport)\s+(scanengine\.\S+)", text, re.M)}
    assert found <= allowed_imports(part_of(path))


def test_nobody_leans_on_the_reference() -> None:
    """It is for tests and for reading, never a silent fallback at run time."""
    assert [path for path in MODULES if part_of(path) != "_reference" and "_reference" in own_imports(path)] == []


def test_every_part_has_its_place_in_the_layers() -> None:
    assert {part_of(path) for path in [*MODULES, *NATIVE]} - CORE == set(LAYERS) - CORE


def line_count(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_files_are_short() -> None:
    sizes = {str(path.relative_to(SOURCE)): line_count(path) for path in [*MODULES, *NATIVE]}
    assert {name for name, lines in sizes.items() if lines > LINES_MAX} == LONG
    everything = sizes | {str(path.relative_to(ROOT)): line_count(path) for path in TESTS}
    assert {name: lines for name, lines in everything.items() if lines > LINES_STOP} == {}
    assert line_count(ROOT / "setup.py") < SETUP_LINES_MAX


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "no" + " cover", "x" + "fail", "pytest." + "skip"])
def test_nothing_is_left_for_later(word: str) -> None:
    files = [*MODULES, *NATIVE, *TESTS, ROOT / "setup.py", ROOT / "pyproject.toml"]
    assert [str(path) for path in files if word in path.read_text("utf-8")] == []


def test_an_ignored_type_says_which() -> None:
    bare = re.compile(r"# type: ignore(?!\[)|# noqa(?!:)")
    assert [str(path) for path in [*MODULES, *TESTS] if bare.search(path.read_text("utf-8"))] == [str(Path(__file__))]


def undocumented(node: ast.AST, place: str) -> list[str]:
    """Return the public classes and functions inside a module or class that have no docstring."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            if not ast.get_docstring(child):
                found.append(f"{place}.{child.name}")
            if isinstance(child, ast.ClassDef):
                found += undocumented(child, f"{place}.{child.name}")
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_everything_public_is_explained(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert undocumented(tree, path.stem) == []


def declared(enum_name: str, prefix: str) -> dict[str, int]:
    """Return the names and values of an enumeration in the C face of the core."""
    text = (SOURCE / "_core.pxd").read_text("utf-8")
    body = text[text.index(f"cdef enum {enum_name}:") :].partition("\n\n")[0]
    return {name: int(value) for name, value in re.findall(rf"^\s+{prefix}(\w+) = (\d+)$", body, re.M)}


@pytest.mark.parametrize(
    ("enum_name", "prefix", "model"),
    [("ScanStatus", "SCAN_", Status), ("SegmentStateCode", "SEGMENT_", SegmentState)],
)
def test_enumerations_written_twice_agree(enum_name: str, prefix: str, model: type[IntEnum]) -> None:
    names = {member.name: member.value for member in model}
    assert declared(enum_name, prefix) == names


def test_the_core_is_built_for_speed() -> None:
    is_debug = os.environ.get("SCANENGINE_DEBUG") == "1"
    assert _core.build_flags() == {"debug": is_debug, "optimized": not is_debug}


IMPORT = """
import asyncio, json, logging, sys, threading
policy = type(asyncio.get_event_loop_policy()).__name__
import scanengine
loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
print(json.dumps({
    "threads": threading.active_count(),
    "policy": [policy, type(asyncio.get_event_loop_policy()).__name__],
    "handlers": [repr(handler) for logger in loggers for handler in logger.handlers],
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    "faces": [name for name in sys.modules if name.startswith(("scanengine.server", "scanengine.cli"))],
}))
"""


def test_importing_the_library_changes_nothing_around_it() -> None:
    found = json.loads(run_python(IMPORT))
    assert found["threads"] == 1
    assert found["policy"][0] == found["policy"][1]
    assert found["handlers"] == []
    assert found["faces"] == []
    assert not {"aiohttp", "click", "redis", "rich", "uvloop", "segno", "pytest"} & set(found["modules"])


def test_what_is_no_python_is_installed_too() -> None:
    """An editable install finds every file of the sources; a wheel has only those that are named."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["scanengine"]
    named = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    kinds = {".lua", ".pxd", ".pyi", ".typed"}
    others = {path for path in SOURCE.rglob("*") if path.suffix in kinds or path.name == "py.typed"}
    assert others <= named
    assert {path.suffix for path in others} >= {".lua", ".pxd", ".pyi"}


def test_the_version_is_written_once_in_words_and_once_for_tools() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert re.search(r'^version = "(.+)"$', text, re.M).group(1) == scanengine.__version__
    assert set(scanengine.__all__) <= set(dir(scanengine))
