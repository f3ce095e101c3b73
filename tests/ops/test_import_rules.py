"""Import rules: the core is independent, the three programs import only the core, one module imports each vendor."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {
    "md5s3stash": REPOSITORY / "md5s3stash",
    "md5s3stash_daemon": REPOSITORY / "daemon" / "md5s3stash_daemon",
    "md5s3stash_thumbnailer": REPOSITORY / "thumbnailer" / "md5s3stash_thumbnailer",
    "md5s3stash_migrate": REPOSITORY / "migrate" / "md5s3stash_migrate",
}
MAY_IMPORT_OF_OURS = {
    "md5s3stash": {"md5s3stash"},
    "md5s3stash_daemon": {"md5s3stash", "md5s3stash_daemon"},
    "md5s3stash_thumbnailer": {"md5s3stash", "md5s3stash_thumbnailer"},
    "md5s3stash_migrate": {"md5s3stash", "md5s3stash_migrate"},
}


def imported_packages(source: str) -> set[str]:
    """The top-level name of every module that the source imports, at any place."""
    return {name.partition(".")[0] for name in _imported_modules(ast.parse(source))}


def _imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def imports_of(package: str) -> dict[str, set[str]]:
    """Module of the package, by file name -> its imports."""
    directory = PACKAGES[package]
    return {str(path.relative_to(directory)): imported_packages(path.read_text()) for path in directory.rglob("*.py")}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_of_ours_only_what_it_may(package: str) -> None:
    not_allowed = set(PACKAGES) - MAY_IMPORT_OF_OURS[package]
    modules = imports_of(package)

    assert modules, f"{package} has no modules"
    assert {name: found for name, imported in modules.items() if (found := imported & not_allowed)} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_product_package_imports_tests_tools_or_each_role_folder(package: str) -> None:
    folders = {"tests", "laptop", "bench", "daemon", "thumbnailer", "migrate", "samples"}

    assert {name: found for name, imported in imports_of(package).items() if (found := imported & folders)} == {}


def test_only_the_s3_adapter_of_the_core_imports_a_client_for_s3() -> None:
    importers = {
        name
        for name, imported in imports_of("md5s3stash").items()
        if imported & {"boto3", "botocore", "obstore", "s3transfer"}
    }

    assert importers
    assert all(name.startswith("s3/") for name in importers), importers


def test_the_daemon_knows_boto3_where_it_speaks_to_sqs_and_sns_and_nowhere_else() -> None:
    importers = {name for name, imported in imports_of("md5s3stash_daemon").items() if imported & {"boto3", "botocore"}}

    assert importers == {"intake/sqs/client.py", "notices/sns.py"}


# Places that docs/architecture.md names for planned features.
PLANNED = {"render/tiles.py", "cache/pyramids.py"}

# Each folder of the daemon, and the other folders that it may import. main.py and app.py connect all.
LAYERS = {
    "config": {"spool"},  # its default patterns
    "runtime": set(),
    "disk": set(),
    "spool": {"disk"},
    "power_cut": {"runtime", "disk", "spool"},
    "ledger": {"runtime"},
    "fixity": {"config", "runtime", "disk", "spool", "ledger"},
    "provenance": {"config", "runtime", "ledger"},
    "monitoring": {"runtime", "spool", "power_cut", "ledger"},
    "downloads": {"config", "runtime", "ledger"},
    "intake.files": {"config", "runtime", "disk", "spool", "ledger", "monitoring"},
    "intake.lists": {"config", "runtime", "disk", "spool", "ledger", "downloads"},
    "intake.sqs": {"config", "runtime", "ledger", "monitoring", "downloads"},
    "deliveries": {"config", "runtime", "disk", "spool", "ledger"},
    "notices": {"config", "runtime", "disk", "fixity", "provenance", "deliveries", "monitoring"},
    "enqueue": {"config", "downloads", "intake.sqs"},
    "ctl": {"config", "disk", "spool", "power_cut", "ledger", "fixity", "provenance", "deliveries"},
    "web": {"config", "runtime", "spool", "ledger", "fixity", "provenance", "monitoring", "deliveries"},
}


def folder_of(module: str) -> str:
    """The folder of a module of the daemon; "" for the top."""
    _, *parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "intake" else 1]) if len(parts) > 1 else ""


def imported_modules(source: str, package: str) -> set[str]:
    """Every module of the package that the source imports, at any place."""
    directory, found = PACKAGES[package], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            path = directory.joinpath(*node.module.split(".")[1:])
            # `from folder import module`, or `from module import name`.
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if path.is_dir() else {node.module}
    return {name for name in found if name.partition(".")[0] == package}


def imports_between_folders() -> set[tuple[str, str]]:
    directory = PACKAGES["md5s3stash_daemon"]
    return {
        (folder_of(f"md5s3stash_daemon.{'.'.join(path.relative_to(directory).with_suffix('').parts)}"), folder_of(name))
        for path in directory.rglob("*.py")
        for name in imported_modules(path.read_text(), "md5s3stash_daemon")
    }


def test_each_folder_of_the_daemon_imports_only_those_below_it() -> None:
    between = {(folder, other) for folder, other in imports_between_folders() if folder and folder != other}

    assert {folder for folder, _ in between} == set(LAYERS) - {"runtime", "disk"}
    assert sorted((folder, other) for folder, other in between if other not in LAYERS[folder]) == []
    # The table allows no unused import.
    assert {(folder, other) for folder, others in LAYERS.items() for other in others} == between


def test_each_folder_says_in_a_line_what_it_may_import() -> None:
    directory = PACKAGES["md5s3stash_daemon"]
    said = {name: (directory.joinpath(*name.split(".")) / "__init__.py").read_text().splitlines() for name in LAYERS}
    allowed = {name: ", ".join(other for other in LAYERS if other in LAYERS[name]) or "core alone" for name in LAYERS}

    assert {name: lines for name, lines in said.items() if len(lines) != 1} == {}
    assert {name: line for name, [line] in said.items() if not line.endswith(f' Imports {allowed[name]}."""')} == {}


def test_the_folders_of_the_daemon_are_layers() -> None:
    left = {folder: set(others) for folder, others in LAYERS.items()}
    while lowest := {folder for folder, others in left.items() if not others}:
        left = {folder: others - lowest for folder, others in left.items() if folder not in lowest}

    assert left == {}, "import cycle"


def test_the_map_of_the_inside_shows_these_layers_and_names_no_module_that_is_gone() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z_/]+)/` \|[^|]*\|([^|]*)\|[^|]*test_", page, re.MULTILINE)
    shown = {folder.replace("/", "."): re.findall(r"`([a-z_/]+)`", others) for folder, others in rows}
    modules = set(re.findall(r"`([a-z_/]+/[a-z_]+\.py)`", page)) - PLANNED
    roots = [REPOSITORY, *PACKAGES.values()]

    assert {name: sorted(other.replace("/", ".") for other in others) for name, others in shown.items()} == {
        name: sorted(others) for name, others in LAYERS.items()
    }
    assert len(modules) > 30
    assert [name for name in sorted(modules) if not any((root / name).exists() for root in roots)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_has_more_than_twelve_modules_and_no_module_more_than_400_lines(package: str) -> None:
    modules = [path for path in PACKAGES[package].rglob("*.py") if path.name != "__init__.py"]
    folders = Counter(path.parent for path in modules)
    if package in ("md5s3stash", "md5s3stash_migrate"):
        # The core is a library with public names; migrate is small.
        del folders[PACKAGES[package]]

    assert {str(folder): count for folder, count in folders.items() if count > 12} == {}
    lines = {str(path): len(path.read_text().splitlines()) for path in modules}
    assert {path: count for path, count in lines.items() if count > 400} == {}


def test_every_thread_of_the_daemon_but_three_that_run_once_is_started_by_spawn() -> None:
    directory = PACKAGES["md5s3stash_daemon"]
    starters = {
        f"{path.relative_to(directory)}:{name}"
        for path in directory.rglob("*.py")
        for name in threads_started(path.read_text())
    }

    run_once = {"intake/files/worker.py:finisher", "web/model.py:status", "notices/channel.py:?"}
    assert starters == {"runtime/threads.py:name", *run_once}


def threads_started(source: str) -> list[str]:
    """The name of each thread that the source starts, as written; "?" for one without a name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("Thread", "Timer"):
            name = next((keyword.value for keyword in node.keywords if keyword.arg == "name"), None)
            found.append("?" if name is None else ast.unparse(name).strip("'"))
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Thread") for base in node.bases):
            found.append(node.name)
    return found


def test_threads_are_found_however_they_are_made() -> None:
    source = "threading.Thread(target=f, name='a')\nThread(g)\nTimer(1, f)\nclass T(threading.Thread): pass\n"

    assert sorted(threads_started(source)) == ["?", "?", "T", "a"]


def test_only_one_module_of_the_thumbnailer_imports_pilbox() -> None:
    assert {name for name, imported in imports_of("md5s3stash_thumbnailer").items() if "pilbox" in imported} == {
        "_pilbox.py"
    }


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b\ndef f():\n    from c.d import e\nif True:\n    import g as h, i\nfrom . import sibling\n"

    assert imported_packages(source) == {"a", "c", "g", "i"}
