# SPDX-License-Identifier: Apache-2.0
"""The session verbs of a request body, for handlers that offer sessions themselves.

Each verb takes the pair of a `SessionManager` and an `Input`, and answers with a dict: `data`, with `properties` for
the response headers, or with `error`.
"""

from typing import Any

from djl_python.async_utils import create_non_stream_output
from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.session_manager import Session, SessionManager

HEADER_SAGEMAKER_SESSION_ID = "X-Amzn-SageMaker-Session-Id"
HEADER_SAGEMAKER_CLOSED_SESSION_ID = "X-Amzn-SageMaker-Closed-Session-Id"


async def create_session(request: tuple[SessionManager, Input]) -> dict[str, Any]:
    """Makes a session; its header carries the id and when it expires, in UTC."""
    import time

    manager, _ = request
    try:
        session = manager.create_session()
    except Exception as error:
        return {"error": f"Failed to create session: {error}"}
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.expiration_ts))
    header = {HEADER_SAGEMAKER_SESSION_ID: f"{session.session_id}; Expires={expires}"}
    return {"data": {"result": f"Session {session.session_id} created"}, "properties": header}


async def close_session(request: tuple[SessionManager, Input]) -> dict[str, Any]:
    """Closes the session that the request's header names."""
    manager, inputs = request
    session_id = inputs.get_property(HEADER_SAGEMAKER_SESSION_ID)
    try:
        manager.close_session(session_id)
    except Exception as error:
        return {"error": f"Failed to close session: {error}"}
    header = {HEADER_SAGEMAKER_CLOSED_SESSION_ID: session_id}
    return {"data": {"result": f"Session {session_id} closed"}, "properties": header}


def get_session(session_manager: SessionManager, inputs: Input) -> Session | None:
    """The session that the request's header names; None without the header, and once it expired.

    Raises:
        ValueError: there is no such session.
    """
    return session_manager.get_session(inputs.get_property(HEADER_SAGEMAKER_SESSION_ID))


def session_non_stream_output_formatter(response: dict[str, Any], **_: Any) -> Output:
    """The answer of a verb as an Output: 200 with its headers, or 424 with its error."""
    if "error" in response:
        return create_non_stream_output("", error=response["error"], code=424)
    return create_non_stream_output(response["data"], properties=response.get("properties"))
