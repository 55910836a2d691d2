# SPDX-License-Identifier: Apache-2.0
"""Runs everything that `docs/custom-handlers.md` shows.

The first line of a block of files is a comment with the file's name. The files of one section up to its next console
block are one model directory; console blocks are run in it, in order, and their output is compared. Requests go to a
server that starts with the first of them; everything else is run by a shell.
"""

import argparse
import ast
import asyncio
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serving.config.options import options
from tests.custom import CustomServer, serving

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "custom-handlers.md"
FILES = ("python", "properties")
KINDS = (*FILES, "console")
PATIENCE_S = 5.0
"""Requests end within this time, and what a file has to say is there."""
SHELL = """
lmi() { "$PYTHON" -P -m serving "$@"; }
pytest() { "$PYTHON" -P -m pytest -p no:cacheprovider "$@"; }
"""
"""Commands that the reader has on the path."""


@dataclass
class Command:
    """One line behind a `$`, and what the document says that it prints."""

    line: int
    text: str
    output: list[str] = field(default_factory=list)


@dataclass
class Directory:
    """The files of one model directory, by name, and what is done with them."""

    line: int
    heading: str
    files: dict[str, str] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.heading}, line {self.line}"


@dataclass
class Block:
    """One fenced block."""

    line: int
    heading: str
    kind: str
    lines: list[str]


def blocks() -> list[Block]:
    found: list[Block] = []
    heading, is_open = "", False
    for number, line in enumerate(DOCUMENT.read_text().splitlines(), 1):
        if line.startswith("```"):
            if not is_open:
                found.append(Block(number, heading, line.removeprefix("```"), []))
            is_open = not is_open
        elif is_open:
            found[-1].lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert not is_open, "the last block has no end"
    return found


def directories() -> Iterator[Directory]:
    current = Directory(0, "")
    for block in blocks():
        if block.kind == "console":
            current.commands += commands(block)
        elif block.kind in FILES:
            name = block.lines[0].removeprefix("# ")
            if current.commands or name in current.files or current.heading != block.heading:
                if current.line:
                    yield current
                current = Directory(block.line, block.heading)
            current.files[name] = "\n".join(block.lines) + "\n"
    yield current


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for number, line in enumerate(block.lines, block.line + 1):
        if line.startswith("$ ") or not found:
            found.append(Command(number, line.removeprefix("$ ")))
        elif found[-1].text.endswith("\\"):
            found[-1].text = found[-1].text[:-1] + line.strip()
        else:
            found[-1].output.append(line)
    return found


ALL = list(directories())


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"line {block.line}")
def test_block_is_covered(block: Block) -> None:
    assert block.kind in KINDS, f"nothing runs a block of the kind {block.kind!r}"
    if block.kind == "console":
        assert block.lines[0].startswith("$ ")
        assert any(directory.heading == block.heading for directory in ALL), "there are no files that it belongs to"
    else:
        assert re.fullmatch(r"# [\w./-]+\.(py|properties)", block.lines[0]), "the first line names the file"


@pytest.mark.parametrize("directory", ALL, ids=str)
def test_files_have_a_purpose(directory: Directory) -> None:
    examples = [name for name in directory.files if name.startswith("examples/")]
    assert directory.commands or examples, "nothing runs these files"
    for name in examples:
        shown = directory.files[name].partition("\n")[2]
        assert f"\n{shown}" in (ROOT / name).read_text(), f"it is no part of {name} any more"


@pytest.mark.parametrize("directory", [one for one in ALL if one.commands], ids=str)
async def test_console(directory: Directory, tmp_path: Path) -> None:
    reader = Reader(directory, tmp_path / "shop")
    async with reader.stack:
        for command in directory.commands:
            await reader.run(command)


def test_options() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|.*\|(?: ([^|]*))? \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) == 15
    known = {option.key: option for option in options().values()}
    for name, default in rows:
        option = known[name]
        fields = option.table.model_fields.items()
        (value,) = (one.default for field, one in fields if option.name in (field, one.alias))
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        assert default == ("" if value in (None, {}) else f"`{shown}`"), name


def test_named_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", DOCUMENT.read_text()):
        assert (DOCUMENT.parent / target).exists(), target


class Reader:
    """Somebody who types what stands there."""

    def __init__(self, directory: Directory, path: Path):
        self.stack = AsyncExitStack()
        self._directory = directory
        self._path = path
        self._server: CustomServer | None = None
        files = dict(_written(*file) for file in directory.files.items())
        for adapter in {name.split("/")[1] for name in files if name.startswith("adapters/")}:
            files[f"adapters/{adapter}/adapter_config.json"] = '{"r": 8}'
            files[f"adapters/{adapter}/adapter_model.safetensors"] = ""
        for name, text in files.items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        lines = files.get("serving.properties", "").splitlines()
        self._properties = dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    async def run(self, command: Command) -> None:
        """Compares what a command prints with what stands below it."""
        expected = "\n".join(command.output)
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            printed, log = await self._printed(command)
            if matches(expected, printed) or not command.text.startswith("cat "):
                break
            assert asyncio.get_running_loop().time() < deadline, printed
            await asyncio.sleep(0.02)
        assert matches(expected, printed), f"line {command.line}: {command.text}\n{printed}\n{log}"

    async def _printed(self, command: Command) -> tuple[str, str]:
        if command.text.startswith("curl "):
            text, _, count = command.text.partition(" | head -n ")
            return await curl(await self._url(), shlex.split(text)[1:], int(count or 0), command.output), ""
        text = command.text
        if text == "lmi reload":
            text += f" --url {await self._url()}"
        process = await asyncio.create_subprocess_shell(
            SHELL + text,
            cwd=self._path,
            env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "DJL_CACHE_DIR": str(self._cache)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, log = await process.communicate()
        return output.decode(), log.decode()

    @property
    def _cache(self) -> Path:
        return self._path.with_name("cache")

    async def _url(self) -> str:
        if self._server is None:
            self._server = await self.stack.enter_async_context(serving(self._path, {}, self._properties))
        return str(self._server.client.base_url).rstrip("/")


def _written(name: str, text: str) -> tuple[str, str]:
    """A file as it lies in the model directory; of one that is only shown in part, all of it."""
    return (Path(name).name, (ROOT / name).read_text()) if name.startswith("examples/") else (name, text)


async def curl(url: str, arguments: list[str], count: int, expected: list[str]) -> str:
    """What curl prints, of headers those that are expected; with a count, what `head` lets through."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-s", action="store_true", required=True)
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-N", action="store_true")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("--json")
    parser.add_argument("url")
    given = parser.parse_args(arguments)
    headers = [("accept", "*/*"), ("content-type", "application/x-www-form-urlencoded")]
    if given.json is not None:
        headers = [("accept", "application/json"), ("content-type", "application/json")]
    headers = dict(headers) | {name.strip().lower(): text.strip() for name, text in (h.split(":", 1) for h in given.H)}
    body = given.json if given.json is not None else given.d
    address = re.sub("^localhost:8080", url, given.url)
    assert address != given.url
    method = "GET" if body is None else "POST"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client,
        client.stream(method, address, content=body, headers=headers) as response,
    ):
        head = list(printed_head(response, expected)) if given.i else []
        if count:
            lines = response.aiter_lines()
            return "\n".join(head + [await anext(lines) for _ in range(count)])
        return "\n".join([*head, (await response.aread()).decode("utf-8", "backslashreplace")])


def printed_head(response: httpx.Response, expected: list[str]) -> Iterator[str]:
    """The status line, the headers that the document shows, in its order and spelling, and the line that ends them."""
    yield f"{response.http_version} {response.status_code} {response.reason_phrase}"
    for line in expected[1 : expected.index("")]:
        name = line.partition(":")[0]
        yield f"{name}: {response.headers.get(name)}"
    yield ""


def matches(expected: str, printed: str) -> bool:
    """They are equal, where `...` stands for anything."""
    pattern = ".*".join(map(re.escape, expected.rstrip("\n").split("...")))
    return re.fullmatch(pattern, printed.rstrip("\n"), re.DOTALL) is not None


def test_readme_shows_the_first_sample() -> None:
    """Whose run is above."""
    blocks = [
        re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for name in ("README.md", "docs/custom-handlers.md")
    ]
    (shown,) = [block for block in blocks[0] if "async def handle" in block]
    assert ast.dump(ast.parse(shown)) == ast.dump(ast.parse(blocks[1][0]))
