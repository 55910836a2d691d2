#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The image's entry point. `serve` and flags run the server in this process's place, so that signals and exit codes are
# its own; other words are a command, run as given. Variables are the server's business, LMI's and TGI's included.
set -eu

case "${1:-serve}" in
    serve)
        [ $# -eq 0 ] || shift
        exec lmi serve "$@"
        ;;
    -*)
        exec lmi serve "$@"
        ;;
    partition | train)
        echo "lmi: error: '$1' is LMI's offline conversion, which this image does not do; 'serve' runs the server" >&2
        exit 1
        ;;
    *)
        exec "$@"
        ;;
esac
