"""A few problems of our own in the form of HumanEval's: a stub, a solution, a check."""

from __future__ import annotations

SOLUTIONS: dict[str, tuple[str, str, str]] = {
    # name: (stub, solution, check); blank lines first, within and last, and a solution of one line
    "total": (
        'def total(numbers):\n    """Add the numbers.\n    >>> total([1, 2])\n    3\n    """\n',
        "    result = 0\n\n    for number in numbers:\n        result += number\n"
        "    return result\n",
        "assert candidate([]) == 0 and candidate([1, 2, 3]) == 6",
    ),
    "shout": (
        'def shout(text):\n    """In capitals, with a mark."""\n',
        "    return text.upper() + '!'\n",
        "assert candidate('ab') == 'AB!'",
    ),
    "sign": (
        'def sign(x):\n    """-1, 0 or 1."""\n',
        "\n    if x < 0:\n        return -1\n    \n    return int(x > 0)\n\n",
        "assert [candidate(x) for x in (-5, 0, 7)] == [-1, 0, 1]",
    ),
    "odd": (
        'import re\n\n\ndef odd(text):\n    """Words at odd places."""\n',
        "    words = re.findall(r'\\w+', text)\n    return words[1::2]\n",
        "assert candidate('a b c d') == ['b', 'd']",
    ),
}
PROBLEMS: list[dict[str, str]] = [
    {
        "task_id": f"Own/{number}",
        "prompt": stub,
        "entry_point": name,
        "canonical_solution": solution,
        "test": f"\n\ndef check(candidate):\n    {check}\n",
    }
    for number, (name, (stub, solution, check)) in enumerate(SOLUTIONS.items())
]
# Lines that are not blank: 4, 1, 3 and 2; runs of them: 10, 1, 6 and 3.
SINGLE_LINES, MULTI_LINES = 10, 20
