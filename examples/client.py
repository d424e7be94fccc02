"""The smallest client of the language server: open a document, ask, and print the drafts.

Run it with `python examples/client.py`. Everything it needs of LSP is here: JSON messages, each
after a header with its length.
"""

import json
import subprocess
import sys

URI = "file:///tmp/area.py"
TEXT = "def area(width, height):\n    return \n\n\nprint(area(2, 3))\n"

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
send("initialize", {"processId": None, "rootUri": None, "capabilities": capabilities,
                    "initializationOptions": options}, id=1)  # fmt: skip
answer_to(1)
send("initialized", {})
document = {"uri": URI, "languageId": "python", "version": 1, "text": TEXT}
send("textDocument/didOpen", {"textDocument": document})
ask = {
    "textDocument": {"uri": URI},
    "position": {"line": 1, "character": len("    return ")},
    "context": {"triggerKind": 1},  # asked for by the user; 2 is by typing
    "workDoneToken": "draft",  # drafts are sent to a request that has one
}
send("textDocument/inlineCompletion", ask, id=2)
for item in answer_to(2):
    print("answer:", item["insertText"])
send("shutdown", None, id=3)
answer_to(3)
send("exit", None)
server.wait()
