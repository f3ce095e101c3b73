"""Writes all generated files but the pictures, which `pictures` writes."""

from __future__ import annotations

from pathlib import Path

from manual.commands import commands
from manual.completions import completion
from manual.man_pages import man_page
from manual.reference import index, reference

REPOSITORY = Path(__file__).resolve().parents[1]


def generated() -> dict[str, str]:
    """The text of each file, by its path in the repository."""
    # Each generator gets new parsers, because it may change them.
    files = {}
    for command in commands():
        files[f"share/man/man{command.section}/{command.name}.{command.section}"] = man_page(command, commands())
        files[f"docs/commands/{command.name}.md"] = reference(command)
    for command in commands():
        files[f"share/bash-completion/completions/{command.name}"] = completion(command, "bash")
    for command in commands():
        files[f"share/zsh/site-functions/_{command.name}"] = completion(command, "zsh")
    files["docs/commands/index.md"] = index(commands())
    return files


def main() -> None:
    for name, text in generated().items():
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
