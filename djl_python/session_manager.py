# SPDX-License-Identifier: Apache-2.0
"""Sessions for handlers: a folder per session, so that several processes can share them.

The folder is the truth; a manager only remembers what it saw there. Only folders whose name is a session id are looked
at, and only those are ever removed.
"""

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

UUID_PATTERN = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)

_DEFAULT_EXPIRATION_S = 1200
_EXPIRES = ".expires"
"""The file in a session's folder that tells other managers when it ends, in seconds since the epoch."""


class Session:
    """Values of one conversation, kept in files.

    Attributes:
        session_id: a UUID.
        expiration_ts: when it ends, in seconds since the epoch; fixed when it was created.
        files_path: its folder.
    """

    def __init__(self, session_id: str, files_path: str, expiration_ts: float):
        self.session_id = session_id
        self.files_path = files_path
        self.expiration_ts = expiration_ts

    def put(self, key: str, value: Any) -> None:
        """Keeps a value, pickled; readers see the old one or the new one, never half of it.

        Raises:
            ValueError: the key can't name a file.
        """
        import pickle
        import uuid

        path = self._path(key)
        unfinished = os.path.join(self.files_path, f".{uuid.uuid4().hex}.tmp")
        try:
            with open(unfinished, "wb") as file:
                pickle.dump(value, file)
            os.replace(unfinished, path)
        except BaseException:
            _remove_file(unfinished)
            raise

    def get(self, key: str, d: Any = None) -> Any:
        """The value that was put under this key, or `d`."""
        import pickle

        try:
            with open(self._path(key), "rb") as file:
                return pickle.load(file)
        except FileNotFoundError:
            return d

    def get_as_numpy(
        self, key: str, shape: int | tuple[int, ...], dtype: Any = None, create: bool = False
    ) -> "np.memmap[Any, Any]":
        """An array in a file, open for reading and writing.

        Args:
            key: its name; not one that was used with `put`.
            shape: a shape larger than the file's extends the file.
            dtype: float32 unless told otherwise.
            create: begins with zeros, also where the array exists.

        Raises:
            FileNotFoundError: there is no such array, and `create` is not set.
        """
        import numpy as np

        return np.memmap(self._path(key), dtype or np.float32, "w+" if create else "r+", shape=shape)

    def _path(self, key: str) -> str:
        name = key.replace("/", "-")
        if name in ("", ".", "..", _EXPIRES):
            raise ValueError(f"a session can't keep a value under {key!r}")
        return os.path.join(self.files_path, name)


class SessionManager:
    """Creates, finds and closes sessions."""

    def __init__(self, properties: Mapping[str, Any]):
        """Opens the folder of sessions, and makes it where there is none.

        Args:
            properties: `sessions_expiration` in seconds (1200), and `sessions_path` (a folder in shared memory where
                the machine has that, else in the temporary folder).
        """
        self.expiration = int(properties.get("sessions_expiration", _DEFAULT_EXPIRATION_S))
        self.sessions_path = str(properties.get("sessions_path") or _default_path())
        if properties.get("sessions_s3url"):
            import logging

            logging.getLogger(__name__).warning(
                "sessions_s3url is not supported: sessions stay in %s.", self.sessions_path
            )
        os.makedirs(self.sessions_path, mode=0o700, exist_ok=True)
        self.sessions: dict[str, Session] = {}
        self._look()

    def create_session(self) -> Session:
        """Removes every session that has expired, then makes a new one."""
        import uuid

        self._look()
        self._remove_expired()
        session_id = str(uuid.uuid4())
        session = Session(session_id, os.path.join(self.sessions_path, session_id), time.time() + self.expiration)
        os.mkdir(session.files_path, mode=0o700)
        with open(os.path.join(session.files_path, _EXPIRES), "w", encoding="ascii") as file:
            file.write(repr(session.expiration_ts))
        self.sessions[session_id] = session
        return session

    def get_session(self, session_id: str | None) -> Session | None:
        """The session with this id; None for no id, for `NEW_SESSION`, and for a session that has expired.

        Raises:
            ValueError: there is no such session.
        """
        if not session_id or session_id == "NEW_SESSION":
            return None
        session = self._found(session_id)
        return session if session.expiration_ts >= time.time() else None

    def close_session(self, session_id: str | None) -> None:
        """Removes a session and its values.

        Raises:
            ValueError: there is no id, no such session, or its folder is gone.
        """
        import shutil

        if not session_id:
            raise ValueError(f"invalid session_id: {session_id}")
        session = self._found(session_id)
        if not os.path.isdir(session.files_path):
            raise ValueError(f"session directory does not exist: {session.files_path}")
        shutil.rmtree(session.files_path)
        del self.sessions[session_id]

    def _found(self, session_id: str) -> Session:
        """The session in memory, or on disk where another manager made it."""
        if session_id not in self.sessions and UUID_PATTERN.match(session_id):
            self._open(session_id)
        if session_id not in self.sessions:
            raise ValueError(f"session not found: {session_id}")
        return self.sessions[session_id]

    def _look(self) -> None:
        for name in os.listdir(self.sessions_path):
            if name not in self.sessions and UUID_PATTERN.match(name):
                self._open(name)

    def _open(self, session_id: str) -> None:
        path = os.path.join(self.sessions_path, session_id)
        if os.path.isdir(path):
            self.sessions[session_id] = Session(session_id, path, self._expiration_of(path))

    def _expiration_of(self, path: str) -> float:
        """When another manager's session ends; where it does not say, counted from the last change in its folder."""
        try:
            with open(os.path.join(path, _EXPIRES), encoding="ascii") as file:
                return float(file.read())
        except (OSError, ValueError):
            return _modified(path) + self.expiration

    def _remove_expired(self) -> None:
        import shutil

        now = time.time()
        for session in [one for one in self.sessions.values() if one.expiration_ts < now]:
            shutil.rmtree(session.files_path, ignore_errors=True)
            del self.sessions[session.session_id]


def _default_path() -> str:
    if os.path.isdir("/dev/shm"):
        return "/dev/shm/djl_sessions"
    import tempfile

    return os.path.join(tempfile.gettempdir(), "djl_sessions")


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return time.time()


def _remove_file(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        return
