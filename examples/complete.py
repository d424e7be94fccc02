"""Fill a hole with the engine alone: load a model, ask, and watch the draft refine.

Run it with `python examples/complete.py`. Without a checkpoint, the small bundled model is loaded.
"""

from engine.api import Draft, Finished, Limits, Request
from engine.config import EngineSettings
from engine.engine import Engine

BEFORE = "def area(width, height):\n    return "
AFTER = "\n\n\nprint(area(2, 3))\n"

engine = Engine.load(EngineSettings(device="cpu"))
tokenizer, infill = engine.tokenizer, engine.tokenizer.infill
assert infill is not None, "this model was not trained to fill holes"
request = Request(
    prompt=infill.prompt((), tokenizer.encode(BEFORE), tokenizer.encode(AFTER)),
    mode="block",
    limits=Limits(tokens_max=16),
    stop_token_ids=(infill.end_of_middle, *engine.end_ids),
)
for event in engine.stream(request):
    if isinstance(event, Draft):
        print(f"{event.usage.forwards:3}  {event.committed}{event.draft}")
    elif isinstance(event, Finished):
        print(f"{event.text!r} after {event.usage.forwards} forwards")
engine.close()
