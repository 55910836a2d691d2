# SPDX-License-Identifier: Apache-2.0
"""Archives of models: what is in them, what they may not do, and what is wrong with broken ones."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from serving.config.archives import extracted, stem, unwrapped
from serving.errors import ConfigError

pytestmark = pytest.mark.pure


def tar(path: Path, *names: str, link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry, io.BytesIO())
    return path


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "word"), [("a.tar.gz", "a"), ("a.b.ZIP", "a.b"), ("a.mar", "a"), ("a.tgz", "a"), ("a", "a")]
)
def test_stem(name: str, word: str) -> None:
    assert stem(name) == word


def test_extracted_once(tmp_path: Path) -> None:
    archive = tar(tmp_path / "m.tar.gz", "config.json", "deep/x")
    target = extracted(archive, tmp_path / "cache")
    assert names(target) == {"config.json", "deep/x"}
    (target / "mark").touch()
    assert (extracted(archive, tmp_path / "cache") / "mark").exists()
    tar(archive, "other", "and", "more")
    assert names(extracted(archive, tmp_path / "cache")) == {"other", "and", "more"}


def test_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    assert names(extracted(tmp_path / "m.zip", tmp_path / "cache")) == {"config.json"}


@pytest.mark.parametrize("name", ["../x", "/etc/evil", "a/../../x"])
def test_name_that_leads_out(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(name, "{}")
    for path in (tar(tmp_path / "m.tar.gz", name), tmp_path / "m.zip"):
        with pytest.raises(ConfigError, match="leads out of it"):
            extracted(path, tmp_path / "cache")
    assert names(tmp_path / "cache") == set()


def test_link_that_leads_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be extracted"):
        extracted(tar(tmp_path / "m.tar.gz", "x", link="/etc/passwd"), tmp_path / "cache")


@pytest.mark.parametrize("name", ["m.tar.gz", "m.zip", "m.tar"])
@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b" + b"x" * 40, b"PK\x03\x04" + b"x" * 60])
def test_no_archive(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be extracted"):
        extracted(tmp_path / name, tmp_path / "cache")


def test_damaged(tmp_path: Path) -> None:
    archive = tar(tmp_path / "m.tar.gz", *[f"file-{number}" for number in range(500)])
    data = bytearray(archive.read_bytes())
    data[len(data) // 2 :] = b"\0" * (len(data) - len(data) // 2)
    archive.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="cannot be extracted"):
        extracted(archive, tmp_path / "cache")


def test_directories_in_directories(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/.hidden").touch()
    assert unwrapped(tmp_path / "a", tmp_path / "cache") == tmp_path / "a/b/c"
    (tmp_path / "a/b/config.json").touch()
    assert unwrapped(tmp_path / "a", tmp_path / "cache") == tmp_path / "a/b"
