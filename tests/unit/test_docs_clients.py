# SPDX-License-Identifier: Apache-2.0
"""`docs/clients.md` shows lines of the programs it links to, and links to each of them."""

import ast
import re

import pytest
import yaml

import serving
from tests.conftest import ROOT

pytestmark = pytest.mark.pure
TEXT = (ROOT / "docs/clients.md").read_text()
PROGRAMS = ROOT / "examples" / "clients"
SECTIONS = {part.split("\n", 1)[0]: part for part in TEXT.split("\n## ")[1:]}
OWN = "A server of your own program's"
LINK = re.compile(r"\]\(\.\./examples/clients/([\w.]+)\)")


@pytest.mark.parametrize("heading", [heading for heading in SECTIONS if heading != OWN])
def test_lines_stand_in_the_program(heading: str) -> None:
    section = SECTIONS[heading]
    programs = "\n".join((PROGRAMS / name).read_text() for name in LINK.findall(section))
    assert programs
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        assert block in programs


def test_section_of_our_own() -> None:
    blocks = re.findall(r"```python\n(.*?)```", SECTIONS[OWN], re.DOTALL)
    imported = [
        name.name
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    ]
    assert imported == ["ServerProcess", "all_ready"]
    assert all(hasattr(serving, name) for name in imported)


def test_every_program_is_in_the_table() -> None:
    files = {path.name for path in PROGRAMS.iterdir() if path.is_file()}
    assert set(LINK.findall(TEXT.split("\n## ")[0])) == files == set(LINK.findall(TEXT))


def test_rows_exist() -> None:
    rows = {row["id"] for row in yaml.safe_load((ROOT / "tests/conformance/data/clients.yaml").read_text())}
    shown = set(re.findall(r"\b[KNLA]-\d+\b", TEXT))
    assert shown
    assert shown <= rows


def test_linked_from_the_readmes() -> None:
    for readme in ("README.md", "examples/README.md"):
        assert "docs/clients.md" in (ROOT / readme).read_text()
