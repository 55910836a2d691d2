# SPDX-License-Identifier: Apache-2.0
"""Stateful sessions as LMI has them: they pin a client to an instance and keep a folder for a handler's files.

Asked by the async handler. Users' handlers reach the same folders with `djl_python.SessionManager`.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from djl_python.session_manager import SessionManager
from serving.errors import PayloadError

SESSION_ID = "x-amzn-sagemaker-session-id"
_CLOSED_SESSION_ID = "x-amzn-sagemaker-closed-session-id"
_CREATE, _CLOSE = "NEW_SESSION", "CLOSE"


class Sessions:
    """The sessions of one server.

    Args:
        properties: for `SessionManager`: where they are kept, and for how long; None switches them off.
    """

    def __init__(self, properties: Mapping[str, str] | None):
        self._properties = properties

    @cached_property
    def _manager(self) -> SessionManager:
        """Made when first needed, because it makes a folder."""
        if self._properties is None:
            raise PayloadError("Input parsing failed: stateful sessions not enabled; set enable_stateful_sessions=true")
        return SessionManager(self._properties)

    def check(self, session_id: str) -> None:
        """Refuses a session that does not exist; one that expired is as good as none.

        Raises:
            PayloadError: there is no such session, or there are none at all.
        """
        try:
            self._manager.get_session(session_id)
        except (ValueError, OSError) as error:
            raise PayloadError(f"Input parsing failed: {error}") from None

    async def answer(self, verb: Any, session_id: str | None) -> tuple[dict[str, str], dict[str, str]]:
        """Body and headers of the answer to a request for a session.

        Args:
            verb: the payload's `requestType`.
            session_id: the request's, if it has one.

        Raises:
            PayloadError: it cannot be done.
        """
        if verb == _CREATE:
            return await asyncio.to_thread(self._create)
        if verb == _CLOSE:
            return await asyncio.to_thread(self._close, session_id)
        raise PayloadError(
            f"Input parsing failed: invalid payload. request type must be one of {_CREATE}, {_CLOSE}, not {verb!r}"
        )

    def _create(self) -> tuple[dict[str, str], dict[str, str]]:
        try:
            session = self._manager.create_session()
        except OSError as error:
            raise PayloadError(f"Failed to create session: {error}") from None
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.expiration_ts))
        headers = {SESSION_ID: f"{session.session_id}; Expires={expires}"}
        return {"result": f"Session {session.session_id} created"}, headers

    def _close(self, session_id: str | None) -> tuple[dict[str, str], dict[str, str]]:
        try:
            self._manager.close_session(session_id)
        except (ValueError, OSError) as error:
            raise PayloadError(f"Failed to close session: {error}") from None
        return {"result": f"Session {session_id} closed"}, {_CLOSED_SESSION_ID: str(session_id)}
