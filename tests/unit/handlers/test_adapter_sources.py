# SPDX-License-Identifier: Apache-2.0
"""Which sources are allowed, and where their files then are."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from handlers import adapter_sources
from handlers.adapter_sources import AdapterSources
from serving.downloads import DownloadFailed
from serving.errors import AdapterRefused, BadParameter

pytestmark = pytest.mark.pure


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was fetched."""
    urls: list[str] = []

    def fetch(url: str, directory: Path, patterns: Sequence[str]) -> Path:
        assert "adapter_config.json" in patterns
        urls.append(url)
        if url.endswith("broken"):
            raise DownloadFailed(f"{url}: no")
        return directory / "copy"

    monkeypatch.setattr(adapter_sources.downloads, "fetch", fetch)
    return urls


@pytest.fixture
def sources(tmp_path: Path) -> AdapterSources:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    return AdapterSources([str(tmp_path / "root"), "s3://b/adapters", "hf://org/"], tmp_path / "copies")


@pytest.mark.parametrize("src", ["a", "{0}/root/a", "file://{0}/root/a", "{0}/root/../root/a/", "./a/."])
async def test_here(sources: AdapterSources, tmp_path: Path, src: str) -> None:
    assert await sources.find(src.format(tmp_path)) == (f"{tmp_path}/root/a", f"{tmp_path}/root/a")


@pytest.mark.parametrize(
    ("src", "url"),
    [
        ("s3://b/adapters/x", "s3://b/adapters/x"),
        ("hf://org/name@v1", "hf://org/name@v1"),
        ("org/name", "hf://org/name"),
    ],
)
async def test_elsewhere(sources: AdapterSources, fetched: list[str], tmp_path: Path, src: str, url: str) -> None:
    assert await sources.find(src) == (url, f"{tmp_path}/copies/copy")
    assert fetched == [url]


@pytest.mark.parametrize(
    "src",
    [
        *("s3://b/adapters-of-others/x", "s3://b", "s3://b/adapters/../x", "s3://b/adapters/", "s3://b/adapters"),
        *("hf://organization/x", "hf://org/", "hf://org/name@refs/pr/7", "http://x/y", "gs://b/a"),
    ],
)
async def test_elsewhere_and_not_allowed(sources: AdapterSources, fetched: list[str], src: str) -> None:
    with pytest.raises(BadParameter, match="URL adapters are not currently supported"):
        await sources.find(src)
    assert fetched == []


@pytest.mark.parametrize("src", ["{0}/other", "../other", "{0}/rootless", "/", "org2/name", "a\0b", "file:///etc"])
async def test_here_and_not_allowed(sources: AdapterSources, fetched: list[str], tmp_path: Path, src: str) -> None:
    with pytest.raises(AdapterRefused, match="is not a valid path"):
        await sources.find(src.format(tmp_path))
    assert fetched == []


async def test_loop_of_links(sources: AdapterSources, tmp_path: Path) -> None:
    (tmp_path / "root/loop").symlink_to(tmp_path / "root/loop")
    with pytest.raises(AdapterRefused, match="is not a valid path"):
        await sources.find("loop")


async def test_broken_download(sources: AdapterSources, fetched: list[str]) -> None:
    with pytest.raises(AdapterRefused, match=r"^s3://b/adapters/broken: no$"):
        await sources.find("s3://b/adapters/broken")


def test_same(sources: AdapterSources, tmp_path: Path) -> None:
    assert sources.is_same("a", f"{tmp_path}/root/a")
    assert sources.is_same("s3://b/adapters/x", "s3://b/adapters/x")
    assert not sources.is_same("s3://b/adapters/x", "a")
    assert sources.is_same(f"file://{tmp_path}/root/a", "a")
    assert sources.is_same("org/name", "hf://org/name")
    assert not sources.is_same("a\0", "a")
    assert not sources.is_same("a", f"{tmp_path}/other")
