# SPDX-License-Identifier: Apache-2.0
"""Sessions: values, several managers on one folder, expiry."""

import os
import uuid
from pathlib import Path

import numpy as np
import pytest

from djl_python import SessionManager, session_manager
from djl_python.session_manager import UUID_PATTERN
from djl_python.session_utils import close_session, create_session, session_non_stream_output_formatter
from tests.unit.djl_python.test_async_utils import frame
from tests.unit.djl_python.test_inputs import request

pytestmark = pytest.mark.pure


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    gmtime = staticmethod(__import__("time").gmtime)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(session_manager, "time", clock)
    return clock


@pytest.fixture
def manager(tmp_path: Path) -> SessionManager:
    return SessionManager({"sessions_path": str(tmp_path / "sessions"), "sessions_expiration": "60"})


def test_two_managers_share_their_sessions(manager: SessionManager) -> None:
    """The contract's case G71; the other manager is older than the session."""
    other = SessionManager({"sessions_path": manager.sessions_path})
    session = manager.create_session()
    session.put("k", {"x": 1})
    session.get_as_numpy("s", (2, 2), create=True)[:] = 3
    seen = other.get_session(session.session_id)
    assert seen is not None
    assert (seen.get("k"), seen.expiration_ts) == ({"x": 1}, session.expiration_ts)
    array = seen.get_as_numpy("s", (2, 2))
    assert (array.dtype, array.tolist()) == (np.float32, [[3, 3], [3, 3]])
    other.close_session(session.session_id)
    assert not os.path.exists(session.files_path)


def test_expiry(manager: SessionManager, clock: Clock) -> None:
    """The contract's case G72."""
    session = manager.create_session()
    assert session.expiration_ts == clock.now + 60
    clock.now += 61
    assert manager.get_session(session.session_id) is None
    assert os.path.isdir(session.files_path)
    manager.create_session()
    assert not os.path.exists(session.files_path)
    with pytest.raises(ValueError, match=f"^session not found: {session.session_id}$"):
        manager.get_session(session.session_id)


def test_only_folders_of_sessions_are_touched(manager: SessionManager, clock: Clock) -> None:
    strange = Path(manager.sessions_path, "notes")
    strange.mkdir()
    os.utime(strange, (0, 0))
    old = Path(manager.sessions_path, str(uuid.uuid4()))
    old.mkdir()
    os.utime(old, (0, 0))
    manager.create_session()
    assert strange.is_dir()
    assert not old.exists()


@pytest.mark.parametrize("session_id", [None, "", "NEW_SESSION"])
def test_no_session(manager: SessionManager, session_id: str | None) -> None:
    assert manager.get_session(session_id) is None


@pytest.mark.parametrize("session_id", ["..", "../other", "x", str(uuid.UUID(int=4))])
def test_unknown_sessions(manager: SessionManager, tmp_path: Path, session_id: str) -> None:
    (tmp_path / "other").mkdir()
    for use in (manager.get_session, manager.close_session):
        with pytest.raises(ValueError, match=f"^session not found: {session_id}$"):
            use(session_id)
    assert (tmp_path / "other").is_dir()


def test_closing(manager: SessionManager) -> None:
    session = manager.create_session()
    for nothing in (None, ""):
        with pytest.raises(ValueError, match=r"^invalid session_id: "):
            manager.close_session(nothing)
    os.rename(session.files_path, session.files_path + "x")
    with pytest.raises(ValueError, match=r"^session directory does not exist: "):
        manager.close_session(session.session_id)
    assert manager.get_session(session.session_id) is session


def test_keys(manager: SessionManager, tmp_path: Path) -> None:
    session = manager.create_session()
    session.put("a/b", 1)
    assert session.get("a-b") == 1
    assert session.get("absent") is None
    assert session.get("absent", 5) == 5
    for key in ("", ".", "..", ".expires"):
        with pytest.raises(ValueError, match="can't keep a value"):
            session.put(key, 1)
    with pytest.raises(FileNotFoundError):
        session.get_as_numpy("absent", (1,))


def test_a_value_that_cant_be_written_leaves_the_old_one(manager: SessionManager) -> None:
    session = manager.create_session()
    session.put("k", "old")
    before = sorted(os.listdir(session.files_path))
    with pytest.raises((AttributeError, TypeError)):
        session.put("k", ["new", lambda: None, threading_lock()])
    assert session.get("k") == "old"
    assert sorted(os.listdir(session.files_path)) == before


def threading_lock() -> object:
    import threading

    return threading.Lock()


def test_the_pattern() -> None:
    assert UUID_PATTERN.match(str(uuid.uuid4()))
    assert not UUID_PATTERN.match(str(uuid.uuid4()) + "\n")


async def test_verbs(manager: SessionManager) -> None:
    created = session_non_stream_output_formatter(await create_session((manager, request(b""))))
    header = created.properties["X-Amzn-SageMaker-Session-Id"]
    session_id, expires = header.split("; Expires=")
    assert UUID_PATTERN.match(session_id)
    assert len(expires) == len("2026-01-01T00:00:00Z")
    assert frame(created)["data"] == f'{{"result": "Session {session_id} created"}}\n'
    inputs = request(b"")
    inputs.properties["x-amzn-sagemaker-session-id"] = session_id
    closed = session_non_stream_output_formatter(await close_session((manager, inputs)))
    assert closed.properties["X-Amzn-SageMaker-Closed-Session-Id"] == session_id
    again = frame(session_non_stream_output_formatter(await close_session((manager, inputs))))
    assert (again["error"], again["code"]) == (f"Failed to close session: session not found: {session_id}", 424)
