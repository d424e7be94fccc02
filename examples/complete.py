"""Fill a hole with the engine alone, and watch the draft refine: `python examples/complete.py`.

No checkpoint is named, so the small model that comes with the package is loaded.
"""

from engine.api import Draft, Finished, Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine

BEFORE = "class Counter:\n    def __init__(self, start):\n        "
AFTER = "\n\n    def value(self):\n        return self.start\n"

engine = Engine.load(EngineSettings(device="cpu"))
encode, infill = engine.tokenizer.encode, engine.tokenizer.infill
assert infill is not None, "this model was not trained to fill holes"
request = Request(
    prompt=infill.prompt((), encode(BEFORE), encode(AFTER)),
    mode="block",
    limits=Limits(tokens_max=16),
    stop_token_ids=(infill.end_of_middle, *engine.end_ids),
)
for event in engine.stream(request):
    if isinstance(event, Draft):
        print(f"draft:  {event.committed}{event.draft}")
    elif isinstance(event, Finished):
        print(f"answer: {event.text}")
engine.close()
