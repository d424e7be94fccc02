#!/bin/sh
# One completion by HTTP. First start an engine in another terminal:
#   dlm-lsp serve --port 8123
# It prints a token. Then: TOKEN=... sh examples/http_call.sh
# Each line of the answer is one event, and the last one holds the whole text.
curl --silent --show-error --no-buffer \
    --header "Authorization: Bearer ${TOKEN:?the token that the engine printed}" \
    --header 'Content-Type: application/json' \
    --data '{
        "prefix": "class Counter:\n    def __init__(self, start):\n        ",
        "suffix": "\n\n    def value(self):\n        return self.start\n",
        "limits": {"tokensMax": 16}
    }' \
    "${URL:-http://127.0.0.1:8123}/v1/generate"
