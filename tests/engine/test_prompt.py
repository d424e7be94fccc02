"""The order of the tokens in the infilling prompts of released models, by family.

Each expected order is copied from its source and not derived from the table.
"""

from __future__ import annotations

import pytest

from engine.prompt import (
    MARKERS_MAX,
    SENTINEL_ENDS,
    SENTINEL_NAMES,
    SENTINELS,
    InfillFormat,
    sentinel_format,
)

FAR, PREFIX, NEAR = "far", "prefix", "near"

# Names in the order of the prompt; the suffix is near and far as one text.
EXPECTED = {
    # arXiv 2409.12186 (Qwen2.5-Coder), file-level FIM; README of the model.
    "qwen": ["<|fim_prefix|>", PREFIX, "<|fim_suffix|>", NEAR, FAR, "<|fim_middle|>"],
    # README of StarCoder (arXiv 2305.06161) and StarCoder2 (2402.19173).
    "starcoder": ["<fim_prefix>", PREFIX, "<fim_suffix>", NEAR, FAR, "<fim_middle>"],
    # README of DeepSeek-Coder (arXiv 2401.14196); its tokenizer puts the first token in front.
    "deepseek": [
        "<｜begin▁of▁sentence｜>",
        "<｜fim▁begin｜>",
        PREFIX,
        "<｜fim▁hole｜>",
        NEAR,
        FAR,
        "<｜fim▁end｜>",
    ],
    # arXiv 2308.12950 (Code Llama), `infilling_prompt_tokens`: "<PRE> {pre} <SUF>{suf} <MID>".
    "code llama": ["<s>", "▁<PRE>", PREFIX, "▁<SUF>", NEAR, FAR, "▁<MID>"],
    # mistral-common, `encode_fim`: [BOS, SUFFIX, *suffix, PREFIX, *prefix].
    "codestral": ["<s>", "[SUFFIX]", NEAR, FAR, "[PREFIX]", PREFIX],
    # ai.google.dev/gemma/docs/codegemma/prompt-structure; <bos> as Gemma's tokenizer has it.
    "codegemma": [
        "<bos>",
        "<|fim_prefix|>",
        PREFIX,
        "<|fim_suffix|>",
        NEAR,
        FAR,
        "<|fim_middle|>",
    ],
}
SENTENCEPIECE = {"code llama", "codestral", "codegemma"}


def ids_of(names: list[str]) -> dict[str, int]:
    return {name: 1000 + index for index, name in enumerate(names)}


@pytest.mark.parametrize("family", EXPECTED)
def test_each_family_is_asked_in_its_own_order(family: str) -> None:
    order = EXPECTED[family]
    ids = ids_of([*order, *SENTINEL_ENDS] if family == "qwen" else order)
    found = sentinel_format(ids.get, is_sentencepiece=family in SENTENCEPIECE)
    assert found is not None
    texts = {FAR: (1, 2), PREFIX: (3, 4, 5), NEAR: (6,)}
    expected = [token for name in order for token in texts.get(name, (ids[name],))]
    assert found.prompt((1, 2), (3, 4, 5), (6,)) == tuple(expected)
    assert len(found.prompt((), (), ())) <= MARKERS_MAX
    assert {ids[name] for name in order if name not in texts} <= set(found.end_ids)


@pytest.mark.parametrize("family", EXPECTED)
@pytest.mark.parametrize(("far", "near"), [((1, 2), (6,)), ((), (6, 7)), ((), ())])
def test_the_suffix_is_what_follows_the_prefix_without_sentinels(
    family: str, far: tuple[int, ...], near: tuple[int, ...]
) -> None:
    found = sentinel_format(ids_of(EXPECTED[family]).get, is_sentencepiece=family in SENTENCEPIECE)
    assert found is not None
    start, end = found.suffix(far, (3, 4, 5), near)
    expected = () if family == "codestral" else (*near, *far)
    assert found.prompt(far, (3, 4, 5), near)[start:end] == expected


def test_the_suffix_of_our_own_layout_is_the_near_one() -> None:
    infill = InfillFormat(90, 91, 92, 93, 94, 95)
    start, end = infill.suffix((1, 2), (3, 4, 5), (6, 7))
    assert infill.prompt((1, 2), (3, 4, 5), (6, 7))[start:end] == (6, 7)
    assert infill.suffix((1, 2), (3, 4, 5), ()) == (0, 0)


def test_all_that_qwen_writes_after_a_middle_ends_it() -> None:
    """The ids of Qwen2.5-Coder; its own eos_token_id names two of them."""
    ids = {
        "<|endoftext|>": 151643,
        "<|im_start|>": 151644,
        "<|im_end|>": 151645,
        "<|fim_prefix|>": 151659,
        "<|fim_middle|>": 151660,
        "<|fim_suffix|>": 151661,
        "<|fim_pad|>": 151662,
        "<|repo_name|>": 151663,
        "<|file_sep|>": 151664,
    }
    found = sentinel_format(ids.get, is_sentencepiece=False)
    assert found is not None
    assert sorted(found.end_ids) == sorted(ids.values())


@pytest.mark.parametrize("family", EXPECTED)
def test_a_family_is_not_found_by_half_of_its_names(family: str) -> None:
    names = [name for name in EXPECTED[family] if name not in (FAR, PREFIX, NEAR)]
    for missing in names:
        ids = ids_of([name for name in names if name != missing])
        found = sentinel_format(ids.get, is_sentencepiece=True)
        # Without <bos>, CodeGemma's names are Qwen's.
        assert found is None or missing == "<bos>"


def test_mistrals_byte_level_tokenizers_have_the_names_but_not_the_format() -> None:
    ids = ids_of(["<s>", "</s>", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"])
    assert sentinel_format(ids.get, is_sentencepiece=False) is None


def test_every_name_is_known_as_a_name() -> None:
    names = {name for family in SENTINELS for name in family.order if isinstance(name, str)}
    assert names | set(SENTINEL_ENDS) == SENTINEL_NAMES
