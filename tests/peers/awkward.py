"""Text that is difficult for tokenizers, and source that this project's models never saw."""

from __future__ import annotations

import importlib.metadata
import random
from pathlib import Path

from engine.model.tokenizer import Tokenizer

HELD_OUT = "networkx"  # installed with torch; held out by the recipe

AWKWARD = {
    "empty": "",
    "one blank": " ",
    "one newline": "\n",
    "runs of blanks": "a" + " " * 3 + "b" + " " * 17 + "c" + " " * 700 + "d",
    "runs of newlines": "a\n\n\nb" + "\n" * 50 + " \n  \n\t\n",
    "line ends": "a\r\nb\rc\n\rd\r\n\r\n\r\r\n  \r\n",
    "tabs": "\tif x:\n\t\treturn\t# tab\t\t\n \t mixed",
    "blanks at the end": "x = 1   \n   \n    ",
    "digits": "0 1 12 123 1234 12345678901234567890 0x1F 1_000 1.5e-10 ½ ² ٣٤٥ 一二",
    "contractions": "don't DON'T it'S 'tis we'll I'Ve '' 'd'd",
    "operators": "a+=b;c<<=1;d!==e||f&&!g;h->i::j=>k...l///m\\n\"'`${x}#{y}@z?.w??=v",
    "names": "snake_case_name camelCaseName PascalHTTPServer __dunder__ _x $y λ_Ω x1y2z3",
    "markers of Qwen": 'end = "<|fim_middle|>"  # <|endoftext|><|im_end|>\nx = "<|file_sep|>"',
    "markers of others": "<s></s><unk>[PAD0][INST]<fim_prefix><｜fim▁begin｜>▁<PRE>[MASK]",
    "halves of markers": "<|fim_<|fim_middle|>middle|> <|> |> <| fim_middle |>",
    "composed and combining": "é e\u0301 Å A\u030a ñ n\u0303 \u0301 가 \u1100\u1161 ẛ\u0323",
    "emoji": "😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ☺️ ❤️‍🔥 #️⃣",
    "scripts": "日本語のコード переменная משתנה متغير हिन्दी ไทย 変数＝値 ｆｕｌｌ ß ﬁ İı",
    "right to left": 'x = "שלום"  # مرحبا \u202e bidi \u202c',
    "rare blanks": "a\u00a0b\u2003c\u200bd\u2028e\u2029f\u3000g\u0085h\x0bi\x0cj\ufeffk",
    "control characters": "\0 \x01\x02\x1b[31m \x7f \x1c\x1d",
    "rare code points": "\ufffd \ufffe \uffff \U0001fffe \U0010ffff \ue000 \U000e0001 \u0378",
    "a long line": "data = [" + ", ".join(str(number * 7919) for number in range(4000)) + "]",
    "a long word": "x" * 3000 + "Y" * 3000 + "_" * 500 + "ü" * 500,
    "minified": "!function(e,t){for(var n=0;n<t.length;n++)e[n]=t[n]}(a,b);" * 100,
    "base64": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9" * 9,
    "diff": "@@ -1,3 +1,4 @@\n-    old\n+\tnew\n \n\\ No newline at end of file",
}

_PIECES = [*AWKWARD.values()]


def mixtures(count: int, seed: int = 0) -> list[str]:
    """Texts of short pieces of the ones above, so that every kind follows every other."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        cuts = []
        for _ in range(draw.randint(1, 12)):
            piece = draw.choice(_PIECES)
            at = draw.randrange(len(piece) + 1)
            cuts.append(piece[at : at + draw.randint(1, 12)])
        texts.append("".join(cuts))
    return texts


def held_out_sources(count: int) -> list[str]:
    """The larger Python files of a package that no model of this project was trained with."""
    files = importlib.metadata.files(HELD_OUT) or []
    found = [Path(str(file.locate())) for file in files if file.match("algorithms/*.py")]
    texts = [path.read_text("utf-8") for path in sorted(found) if path.stat().st_size > 4000]
    return texts[:count]


def held_out_prompts(tokenizer: Tokenizer, count: int) -> list[tuple[int, ...]]:
    """Infilling prompts of about a hundred tokens, at even distances through those files."""
    assert tokenizer.infill is not None
    texts = held_out_sources(count)
    prompts = []
    for index in range(count):
        text = texts[index % len(texts)]
        at = 600 + (index * 997) % (len(text) - 1600)
        pieces = (text[at + 100 : at + 180], text[at - 240 : at], text[at + 40 : at + 100])
        prompts.append(tokenizer.infill.prompt(*map(tokenizer.encode, pieces)))
    return prompts
