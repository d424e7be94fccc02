#!/bin/sh
# One completion by HTTP over a unix socket. First start an engine in another terminal with
#   dlm-lsp serve
# and then give this script the socket that it prints: sh examples/http_call.sh SOCKET
# Each line of the answer is one event, and the last one holds the text.
curl --silent --show-error --no-buffer --unix-socket "${1:?which socket?}" \
    --header 'Content-Type: application/json' \
    --data '{
        "prefix": "def area(width, height):\n    return ",
        "suffix": "\n\n\nprint(area(2, 3))\n",
        "limits": {"tokensMax": 16}
    }' \
    http://engine/v1/generate
