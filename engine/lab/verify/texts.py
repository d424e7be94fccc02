"""The built-in texts of an examination: one to compute activations on, and holes to fill.

They were written for this purpose, so that no checkpoint was trained on them. Both the text before
a hole and the text after it determine its filling.
"""

from __future__ import annotations

from engine.lab.verify.probes import Probe

PLAIN = '''"""Reads temperatures and reports the warmest day of each month."""

import csv
from collections import defaultdict


class Readings:
    def __init__(self, path, unit="°C"):
        self.path = path
        self.unit = unit
        self.by_month = defaultdict(list)

    def load(self):
        with open(self.path, newline="") as file:
            for row in csv.reader(file):
                day, value = row[0], float(row[1])
                self.by_month[day[:7]].append((value, day))

    def warmest(self, month):
        value, day = max(self.by_month[month])
        return f"{day}: {value:.1f} {self.unit}"
'''


_HOLES = """\
def area(width, height):
    ¦return width * height¦


def volume(width, height, depth):
    return width * height * depth
---
class Counter:
    def __init__(self, start):
        ¦self.start = start¦
        self.count = start

    def reset(self):
        self.count = self.start
---
import ¦json¦


def read_settings(path):
    with open(path) as file:
        return json.load(file)


def write_settings(path, settings):
    with open(path, "w") as file:
        json.dump(settings, file)
---
def total(prices):
    result = 0
    for ¦price in prices¦:
        result += price
    return result
---
def is_even(number):
    return number % 2 == 0


def count_even(numbers):
    count = 0
    for number in numbers:
        if ¦is_even(number)¦:
            count += 1
    return count
---
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        ¦self.items.append(item)¦

    def pop(self):
        return self.items.pop()
---
def first_word(text):
    words = ¦text.split()¦
    if not words:
        return None
    return words[0]
---
def divide(left, right):
    if right == 0:
        raise ¦ValueError("right is zero")¦
    return left / right


def test_divide():
    with pytest.raises(ValueError, match="right is zero"):
        divide(1, 0)
---
function add(left, right) {
  ¦return left + right;¦
}

function multiply(left, right) {
  return left * right;
}
---
const names = users.map((user) => ¦user.name¦);
for (const name of names) {
  console.log(name);
}
---
function largest(values) {
  let best = values[0];
  for (const value of values) {
    if (¦value > best¦) {
      best = value;
    }
  }
  return best;
}
---
class Point {
  constructor(x, y) {
    ¦this.x = x;¦
    this.y = y;
  }

  distance() {
    return Math.sqrt(this.x * this.x + this.y * this.y);
  }
}
"""
# A hole stands between two marks that the code of these texts does not contain.
PROBES = tuple(Probe(*text.split("¦")) for text in _HOLES.split("---\n"))
