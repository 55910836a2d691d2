#!/usr/bin/python3 -ISB
# SPDX-License-Identifier: Apache-2.0
"""The image's HEALTHCHECK: exits 0 if the server answers 200 to /ping, else 1 with the reason.

The port is that of SAGEMAKER_BIND_TO_PORT, else 8080; where a flag or another variable moves the server, or with TLS,
LMI_HEALTH_URL says where to ask.
"""

import os
import ssl
import sys
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

_TIMEOUT_S = 3


def main() -> int:
    """Asks once; returns the exit code."""
    port = os.environ.get("SAGEMAKER_BIND_TO_PORT") or "8080"
    url = os.environ.get("LMI_HEALTH_URL") or f"http://127.0.0.1:{port}/ping"
    # The certificate is for the name that clients use; this asks the same machine.
    context = ssl._create_unverified_context()
    try:
        with build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(url, timeout=_TIMEOUT_S) as answer:
            print(f"{url}: {answer.status}")
            return 0 if answer.status == 200 else 1
    except HTTPError as error:
        print(f"{url}: {error.code}")
    except (OSError, ValueError) as error:
        print(f"{url}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
