"""The functions of docs/signing.md sign as our own does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from md5s3stash_thumbnailer.signed_url import sign
from tests.support.servers import REPOSITORY

MD5 = "3e25960a79dbc69b674cd4ec67a72c62"
# Reads [[url, key, expires], ...] and writes the signed URLs.
DRIVERS = {
    "python": ([sys.executable, "-"], "import json\nfor case in json.loads({cases!r}):\n    print(signed(*case))\n"),
    "php": (
        ["php"],
        "foreach (json_decode(<<<'END'\n{cases}\nEND, true) as $case) {{ echo signed(...$case), \"\\n\"; }}\n",
    ),
    "js": (["node", "-"], "for (const c of {cases}) console.log(signed(...c));\n"),
}


def snippet(language: str) -> str:
    text = (REPOSITORY / "docs" / "signing.md").read_text()
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ("<?php\n" if language == "php" else "") + str(code)


@pytest.mark.parametrize("language", DRIVERS)
def test_each_language_signs_the_same_url(language: str) -> None:
    paths = [f"/p/card/{MD5}", f"/clip/300x300/{MD5}", f"/crop/9x9/26094/{MD5}", f"/crop/9x9/26094%2F{MD5}"]
    queries = [
        "",
        "?q=80",
        "?q=80&fmt=png",
        "?pos=0.5,0.5&bg=ABC&Q=1",
        "?op=region%2Cresize&rect=1,2,3,4",
        "?",
        "?f=%7E&e=~",
    ]
    cases = [
        (f"{origin}{path}{query}", key, 1_900_000_000 + number)
        for origin in ("", "https://thumbs.example.org", "HTTP://[::1]:8888")
        for path in paths
        for number, query in enumerate(queries)
        for key in ("a key of the thumbnails", "schlüssel mit $zeichen \\ 'und' mehr")
    ]
    (program, *arguments), driver = DRIVERS[language]
    assert shutil.which(program), f"tools/bootstrap --tests installs {program}"
    source = snippet(language) + driver.format(cases=json.dumps(cases))

    done = subprocess.run([program, *arguments], input=source, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.splitlines() == [sign(*case) for case in cases]
