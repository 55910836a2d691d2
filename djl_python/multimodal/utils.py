# SPDX-License-Identifier: Apache-2.0
"""Images from addresses and from base64 text, as Pillow images."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_TIMEOUT_S = 10.0
_MOST_BYTES = 32 * 1024 * 1024


def fetch_image(url: str) -> "Image":
    """The image at an `http` or `https` address, or in a `data:image` one.

    Raises:
        ValueError: the address is of another kind, or what it names is no image or larger than 32 MiB.
        OSError: it can't be downloaded within 10 seconds of silence.
    """
    if url.startswith("http"):
        return fetch_image_from_url(url)
    if url.startswith("data:image"):
        return load_image_from_base64(url.partition(",")[2])
    raise ValueError("Invalid image url")


def fetch_image_from_url(url: str) -> "Image":
    """Downloads an image; raises as `fetch_image` does."""
    return _opened(_downloaded(url))


def load_image_from_base64(image: str | bytes) -> "Image":
    """Decodes an image.

    Raises:
        ValueError: the text is not base64, or holds no image.
    """
    import base64

    return _opened(base64.b64decode(image, validate=True))


def encode_image_base64_from_url(url: str) -> str:
    """Downloads an image, and returns its bytes as base64 text; raises as `fetch_image` does."""
    import base64

    return base64.b64encode(_downloaded(url)).decode("ascii")


def _downloaded(url: str) -> bytes:
    from urllib.request import urlopen

    if not url.startswith(("http://", "https://")):
        raise ValueError("Invalid image url")
    with urlopen(url, timeout=_TIMEOUT_S) as answer:
        encoded: bytes = answer.read(_MOST_BYTES + 1)
    if len(encoded) > _MOST_BYTES:
        raise ValueError(f"The image at {url} is larger than {_MOST_BYTES} bytes.")
    return encoded


def _opened(encoded: bytes) -> "Image":
    from io import BytesIO

    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(BytesIO(encoded))
    except UnidentifiedImageError as error:
        raise ValueError("The bytes hold no image.") from error
