# SPDX-License-Identifier: Apache-2.0
"""`python -m serving` is the same command as `lmi`."""

from serving.cli import main

if __name__ == "__main__":
    main()
