"""The fused head reads the tokens that its reference reads, ties included."""

from __future__ import annotations

import pytest
import torch

from engine.kernels.head_reading import (
    CASES,
    NO_TOKEN,
    Case,
    head_reading,
    head_reading_torch,
    head_reading_triton,
)
from tests.engine.seeded import DEVICE

# The large ones take too long in the interpreter.
TRIED = [name for name in CASES if DEVICE.type == "cuda" or not CASES[name].is_large]
DTYPES = [torch.float32, torch.bfloat16]


def inputs(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Small whole numbers, whose products are exact in fp32 in any order of adding: every token
    can be compared, and many logits tie."""
    generator = torch.Generator().manual_seed(case.rows + case.vocabulary)
    hidden = torch.randint(-2, 3, (case.rows, case.width), generator=generator)
    weight = torch.randint(-2, 3, (case.vocabulary, case.width), generator=generator)
    chosen = torch.randint(NO_TOKEN, case.vocabulary, (case.rows,), generator=generator)
    chosen[0] = case.vocabulary - 1
    return hidden.to(DEVICE, dtype), weight.to(DEVICE, dtype), chosen.int().to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TRIED)
def test_exact_logits_are_read_exactly(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    tensors = inputs(case, dtype)
    ours = head_reading_triton(*tensors, case.mask_id, case.best)
    theirs = head_reading_torch(*tensors, case.mask_id, case.best)
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.chosen, theirs.chosen)
    torch.testing.assert_close(ours.log_sum_exp, theirs.log_sum_exp, atol=1e-5, rtol=1e-6)
    assert not (ours.tokens == case.mask_id).any()


def test_the_join_may_take_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kernels.head_reading.JOINED_AT_ONCE", 2)
    case = CASES["five tiles of the vocabulary"]
    tensors = inputs(case, torch.float32)
    ours = head_reading_triton(*tensors, case.mask_id, case.best)
    theirs = head_reading_torch(*tensors, case.mask_id, case.best)
    assert torch.equal(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.log_sum_exp, theirs.log_sum_exp)


def test_all_logits_tie_and_the_lowest_ids_win() -> None:
    hidden, weight = torch.ones((2, 16), device=DEVICE), torch.ones((150, 16), device=DEVICE)
    chosen = torch.tensor([NO_TOKEN, 149], dtype=torch.int32, device=DEVICE)
    found = head_reading_triton(hidden, weight, chosen, 1, 4)
    assert found.tokens.tolist() == [[0, 2, 3, 4]] * 2
    assert found.chosen.tolist() == [float("-inf"), 16.0]
    torch.testing.assert_close(found.probability.cpu(), torch.full((2,), 1 / 150))


def test_logits_that_tie_in_the_weights_dtype_tie() -> None:
    """257 is 256 in bf16, as torch stores it, so that the lower id wins."""
    hidden = torch.ones((1, 17), device=DEVICE, dtype=torch.bfloat16)
    weight = torch.full((3, 17), 16.0, device=DEVICE, dtype=torch.bfloat16)
    weight[:, 16] = torch.tensor([0.0, 1.0, -1.0])
    chosen = torch.tensor([1], dtype=torch.int32, device=DEVICE)
    ours = head_reading_triton(hidden, weight, chosen, NO_TOKEN, 2)
    theirs = head_reading_torch(hidden, weight, chosen, NO_TOKEN, 2)
    assert ours.tokens.tolist() == theirs.tokens.tolist() == [[0, 1]]
    assert ours.chosen.tolist() == [256.0]


def test_the_mask_token_never_wins_and_stays_in_the_denominator() -> None:
    """Its logit is 20 above all others: it is the whole mass."""
    hidden = torch.ones((1, 16), device=DEVICE)
    weight = torch.zeros((70, 16), device=DEVICE)
    weight[66] = 20 / 16
    chosen = torch.tensor([66], dtype=torch.int32, device=DEVICE)
    found = head_reading_triton(hidden, weight, chosen, 66, 2)
    assert found.tokens.tolist() == [[0, 1]]
    assert float(found.probability) < 1e-8
    assert float(found.chosen) == pytest.approx(20.0)
    assert float(found.log_sum_exp) == pytest.approx(20.0, abs=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_real_logits_are_near_the_truth(dtype: torch.dtype) -> None:
    """Against fp64, at most twice as far as torch in the same dtype, plus a rounding."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn((9, 80), generator=generator).to(DEVICE, dtype)
    weight = torch.randn((333, 80), generator=generator).to(DEVICE, dtype)
    chosen = torch.arange(9, dtype=torch.int32, device=DEVICE) * 37
    tensors = (hidden, weight, chosen)
    truth = head_reading_torch(hidden.double(), weight.double(), chosen, 3, 1)
    ours, theirs = head_reading_triton(*tensors, 3, 1), head_reading_torch(*tensors, 3, 1)
    floor = 8 * torch.finfo(torch.float32).eps * 30 if dtype == torch.float32 else 2.0**-5
    for name in ("logits", "log_sum_exp", "chosen"):
        exact = getattr(truth, name)
        error = (getattr(ours, name) - exact).abs().max()
        assert error <= 2 * (getattr(theirs, name) - exact).abs().max() + floor, name


@pytest.mark.skipif(DEVICE.type != "cpu", reason="about what a processor takes")
def test_a_processor_takes_the_reference() -> None:
    case = CASES["one row"]
    tensors = inputs(case, torch.float32)
    ours = head_reading(*tensors, mask_id=case.mask_id)
    theirs = head_reading_torch(*tensors, case.mask_id, 1)
    assert torch.equal(ours.log_sum_exp, theirs.log_sum_exp)
