"""The defined arithmetic of `select.distance` as compiled code: one 16-wide vector accumulator, no fused multiply-add.

Written as LLVM vector instructions rather than as a loop that a compiler might or might not vectorise, so that the
order of additions is fixed and the result is the same bit for bit on every machine (narrower vector units do the
sixteen lanes in several instructions).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


@intrinsic
def squared_distance(typing_context: Any, a: Any, i: Any, b: Any, j: Any, width: Any) -> Any:
    """Squared distance of row `i` of `a` to row `j` of `b`: float32 [n, width], in one piece, by their addresses."""
    rows = types.CPointer(types.float32)
    return types.float32(rows, types.intp, rows, types.intp, types.intp), _generate


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    a, i, b, j, width = arguments
    lanes = ir.Constant(width.type, LANES)
    row_a = builder.gep(a, [builder.mul(i, width)])
    row_b = builder.gep(b, [builder.mul(j, width)])
    sums = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES))

    def add(difference: Any) -> None:
        builder.store(builder.fadd(builder.load(sums), builder.fmul(difference, difference)), sums)

    whole = builder.udiv(width, lanes)
    with cgutils.for_range(builder, whole) as loop:
        offset = builder.mul(loop.index, lanes)
        add(builder.fsub(_load(builder, row_a, offset), _load(builder, row_b, offset)))
    rest = builder.urem(width, lanes)
    with builder.if_then(builder.icmp_unsigned("!=", rest, ir.Constant(rest.type, 0)), likely=False):
        tail = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES))
        done = builder.mul(whole, lanes)
        with cgutils.for_range(builder, rest) as loop:
            offset = builder.add(done, loop.index)
            difference = builder.fsub(
                builder.load(builder.gep(row_a, [offset])), builder.load(builder.gep(row_b, [offset]))
            )
            builder.store(builder.insert_element(builder.load(tail), difference, loop.index), tail)
        add(builder.load(tail))
    total = builder.load(sums)
    half = LANES // 2
    while half:
        low = _part(builder, total, 0, half)
        high = _part(builder, total, half, half)
        total = builder.fadd(low, high)
        half //= 2
    return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))


def _load(builder: Any, row: Any, offset: Any) -> Any:
    """Sixteen floats at `row` + `offset`, which need not be aligned to more than a float."""
    pointer = builder.bitcast(builder.gep(row, [offset]), _VECTOR.as_pointer())
    return builder.load(pointer, align=4)


def _part(builder: Any, vector: Any, start: int, count: int) -> Any:
    """Lanes start … start + count - 1 of `vector`."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(start, start + count)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes)
