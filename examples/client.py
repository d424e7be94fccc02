"""The smallest client of the language server: `python examples/client.py`.

It opens a document, asks for a completion and prints the drafts. All that it needs of LSP is here:
messages of JSON, each after a header with its length.
"""

import json
import subprocess
import sys

URI = "file:///project/counter.py"
BEFORE = "class Counter:\n    def __init__(self, start):\n        "
AFTER = "\n\n    def value(self):\n        return self.start\n"

server = subprocess.Popen(
    [sys.executable, "-P", "-m", "dlm_lsp", "--stdio", "--log-level", "error"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
)


def send(method, params, id=None):
    """Sends a request, or without an id a notification."""
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    body = json.dumps(message if id is None else message | {"id": id}).encode()
    server.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    server.stdin.flush()


def receive():
    """The next message of the server."""
    length = int(server.stdout.readline().split()[1])
    server.stdout.readline()
    return json.loads(server.stdout.read(length))


def answer_to(id):
    """The answer to a request; prints the drafts that come before it."""
    while True:
        message = receive()
        if message.get("method") == "dlm/draft":
            print("draft: ", message["params"]["committed"] + message["params"]["draft"])
        elif message.get("id") == id and "method" not in message:
            return message.get("result", message.get("error"))


options = {"dlm": {"drafts": True}}
capabilities = {"textDocument": {"inlineCompletion": {}}}
greeting = {"processId": None, "rootUri": None, "capabilities": capabilities}
send("initialize", greeting | {"initializationOptions": options}, id=1)
answer_to(1)
send("initialized", {})
document = {"uri": URI, "languageId": "python", "version": 1, "text": BEFORE + AFTER}
send("textDocument/didOpen", {"textDocument": document})
ask = {
    "textDocument": {"uri": URI},
    "position": {"line": 2, "character": 8},  # where BEFORE ends
    "context": {"triggerKind": 2},  # while typing; 1, when asked for, brings up to three answers
    "workDoneToken": "draft",  # drafts are sent to a request that has one
}
send("textDocument/inlineCompletion", ask, id=2)
for item in answer_to(2):
    print("answer:", item["insertText"])
send("shutdown", None, id=3)
answer_to(3)
send("exit", None)
server.wait()
