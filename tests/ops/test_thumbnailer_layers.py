"""The folders of the thumbnailer: rendering imports neither network nor cache, the cache does not import the server."""

from __future__ import annotations

import pytest

from tests.ops.test_import_rules import PACKAGES, imported_modules, imported_packages

PACKAGE = "md5s3stash_thumbnailer"

# Each folder, and the other folders of the thumbnailer that it may import. main.py, app.py and
# options.py are above them.
LAYERS = {
    "render": {"_pilbox", "errors", "part", "request", "stills"},
    "cache": {"errors", "part", "request", "render", "stills", "threads"},
    "iiif": {"_pilbox", "cache", "errors", "part", "render", "server"},
    "server": {"_pilbox", "errors", "metrics", "part", "request", "signed_url", "render", "cache", "workers"},
    "stills": {"cpu", "errors"},
    "viewer": {"iiif", "server"},
    "workers": {"_pilbox", "cache", "cpu", "errors", "render", "request", "threads"},
    "lookup": {"errors", "render", "server", "threads"},
    "config": {"lookup", "request", "server"},
}
NETWORK = {"tornado", "boto3", "botocore", "pycurl", "requests", "urllib3", "socket", "http", "asyncio"}


def sources_of(folder: str) -> dict[str, str]:
    directory = PACKAGES[PACKAGE]
    return {str(path.relative_to(directory)): path.read_text() for path in (directory / folder).rglob("*.py")}


@pytest.mark.parametrize("folder", LAYERS)
def test_a_folder_imports_only_what_is_below_it(folder: str) -> None:
    sources = sources_of(folder)
    imported = {
        name: {module.split(".")[1] for module in imported_modules(source, PACKAGE)} - {folder}
        for name, source in sources.items()
    }

    assert len(sources) > 1
    assert {name: extra for name, found in imported.items() if (extra := found - LAYERS[folder])} == {}
    # The table allows no unused import.
    assert set().union(*imported.values()) == LAYERS[folder]


def test_rendering_knows_no_network() -> None:
    found = {name: imported_packages(source) & NETWORK for name, source in sources_of("render").items()}

    assert {name: packages for name, packages in found.items() if packages} == {}


def test_all_folders_are_covered() -> None:
    assert {path.parent.name for path in PACKAGES[PACKAGE].glob("*/__init__.py")} == set(LAYERS)
