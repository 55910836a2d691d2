# SPDX-License-Identifier: Apache-2.0
"""Directories of adapters, by whatever spelling."""

from pathlib import Path

import pytest

from serving.engine.lora_places import Places
from serving.errors import AdapterRefused, PayloadError

pytestmark = pytest.mark.pure


def test_one_text_for_each_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    places = Places(str)
    spellings = ["a", "./a", "link", f"{tmp_path}/a", f"{tmp_path}/a/", f"{tmp_path}/x/../a"]
    assert {places.directory(spelling) for spelling in spellings} == {str(tmp_path / "a")}


def test_the_hub_is_asked_once(tmp_path: Path) -> None:
    asked = []

    def fetch(name: str) -> str:
        asked.append(name)
        return str(tmp_path)

    places = Places(fetch)
    assert [places.directory("org/name") for _ in range(3)] == [str(tmp_path)] * 3
    assert asked == ["org/name"]


def test_not_there() -> None:
    def fetch(name: str) -> str:
        raise FileNotFoundError("no network")

    with pytest.raises(AdapterRefused, match=r"org/name is no directory, and cannot be fetched .*: no network"):
        Places(fetch).directory("org/name")
    with pytest.raises(AdapterRefused, match="the Hub has no such model"):
        Places(str).directory("org/name")
    with pytest.raises(PayloadError, match="a Hub id or the name"):
        Places(str).directory("")
