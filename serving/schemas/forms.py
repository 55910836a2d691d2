# SPDX-License-Identifier: Apache-2.0
"""Bodies that are HTML forms, as their fields: custom handlers get each as a part, others one of them as the prompt."""

from collections.abc import AsyncGenerator, Mapping

from serving.errors import PayloadError
from serving.schemas.content import FORM, kind_of


def is_form(content_type: str | None) -> bool:
    """The type says that the body is a form, of either kind."""
    return is_multipart(content_type) or kind_of(content_type) == FORM


async def fields(headers: Mapping[str, str], body: bytes) -> list[tuple[str, bytes]]:
    """Name and bytes of each field, files included, in order.

    Raises:
        PayloadError: the body cannot be read as its type says.
    """
    from starlette.datastructures import Headers, UploadFile
    from starlette.formparsers import FormParser, MultiPartException, MultiPartParser

    async def pieces() -> AsyncGenerator[bytes]:
        yield body
        yield b""

    parser: MultiPartParser | FormParser
    # The body is in memory already, and its length was limited.
    if is_multipart(headers.get("content-type")):
        parser = MultiPartParser(Headers(headers), pieces(), max_part_size=len(body) + 1)
    else:
        parser = FormParser(Headers(headers), pieces(), max_fields=len(body) + 1, max_part_size=len(body) + 1)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise PayloadError(f"Input parsing failed: {getattr(error, 'message', error)}") from None
    found = []
    for name, value in form.multi_items():
        data = await value.read() if isinstance(value, UploadFile) else value.encode()
        found.append((name, data))
    await form.close()
    return found


def is_multipart(content_type: str | None) -> bool:
    """The type says that the body is a form of the kind that carries files."""
    return kind_of(content_type).startswith("multipart/")
