"""What a step has to read, write and multiply, and the time that this takes at least.

A step is a causal chain of rows of one request after cached tokens, with a reading of every row.
Everything is counted once: a kernel that reads something twice is above the floor. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.lab.bench.gpu.cards import Card
from engine.lab.bench.gpu.stored import EMBEDDING, HEAD, matrices, matrix_bytes, vector_bytes
from engine.model.config import ModelConfig

_BF16 = 2  # bytes of an activation, a key or a value


@dataclass(frozen=True, slots=True)
class StepCost:
    """The bytes and FLOPs of one step.

    Attributes:
        layers, head: bytes of weights that are read, whatever the number of rows.
        embedding: bytes of the rows' embeddings.
        kv_read: bytes of the cached keys and values.
        kv_written: bytes of the rows' own keys and values, all kept.
        activations: bytes that the operations of a step hand to each other, written and read once.
        widest: bytes that the largest operation of a layer has at hand of them.
        flops: multiplications and additions of products and attention.
    """

    layers: int
    head: int
    embedding: int
    kv_read: int
    kv_written: int
    activations: int
    widest: int
    flops: int

    def bytes_on(self, card: Card) -> int:
        """The bytes that cross the card's memory bus. Activations do only where an operation's do
        not fit into the cache."""
        moved = self.layers + self.head + self.embedding + self.kv_read + self.kv_written
        return moved + (self.activations if self.widest > card.cache else 0)


@dataclass(frozen=True, slots=True)
class Floor:
    """The least time of a step on a card.

    Attributes:
        memory, compute: milliseconds at the datasheet's bandwidth and at its matrix rate.
    """

    memory: float
    compute: float

    @property
    def milliseconds(self) -> float:
        """The longer of the two, which overlap at best."""
        return max(self.memory, self.compute)

    @property
    def is_compute(self) -> bool:
        """Whether multiplying takes longer than reading."""
        return self.compute > self.memory


def step_cost(config: ModelConfig, storage: str, rows: int, context: int) -> StepCost:
    """What a step of `rows` rows after `context` cached tokens costs.

    Args:
        storage: one of `stored.STORAGES`; keys, values and activations are bf16 in any.
    """
    by_name = {HEAD: 0, EMBEDDING: 0}
    layers = vector_bytes(config, storage)
    multiplied = 0
    for matrix in matrices(config):
        size = matrix_bytes(matrix, config, storage)
        if matrix.name in by_name:
            by_name[matrix.name] = size
        else:
            layers += size
        multiplied += 0 if matrix.name == EMBEDDING else matrix.weights
    token = kv_bytes(config)
    activations, widest = _activations(config, rows)
    return StepCost(
        layers=layers,
        head=by_name[HEAD],
        embedding=rows * by_name[EMBEDDING] // config.vocabulary,
        kv_read=context * token,
        kv_written=rows * token,
        activations=activations,
        widest=widest,
        flops=2 * rows * multiplied + _attention_flops(config, rows, context),
    )


def kv_bytes(config: ModelConfig) -> int:
    """The bytes of one token's keys and values, in bf16."""
    return _BF16 * 2 * config.layers * config.kv_heads * config.head_dim


def floor_of(cost: StepCost, card: Card) -> Floor:
    """The least time of a step on a card."""
    memory = cost.bytes_on(card) / card.bandwidth
    return Floor(memory=1000 * memory, compute=1000 * cost.flops / card.matrix_rate)


def _attention_flops(config: ModelConfig, rows: int, context: int) -> int:
    """Two products per row, head and visible key; row i of the chain sees the cache and i + 1
    rows."""
    visible = rows * context + rows * (rows + 1) // 2
    return 4 * config.layers * config.heads * config.head_dim * visible


def _activations(config: ModelConfig, rows: int) -> tuple[int, int]:
    """The bytes that operations hand on, and the most that one of them has at hand. The logits are
    among neither, since they are never stored."""
    hidden, inner = config.hidden, config.intermediate
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    joint = query + 2 * key
    operations = (
        4 * hidden,  # residual and norm: the sum and its terms, the normed sum
        hidden + joint,  # query, key and value
        joint + query,  # rotary positions; keys and values go to the cache
        2 * query,  # attention
        query + hidden,
        4 * hidden,
        hidden + 2 * inner,  # gate and up
        3 * inner,  # SwiGLU
        inner + hidden,  # down
    )
    row = _BF16 * rows
    return row * (config.layers * sum(operations) + 4 * hidden), row * max(operations)
