"""Addresses as typed pointers: what kernels are given and how they read it. Imports numba."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

_PARAMETERS = types.CPointer(types.int64)
SIGNATURE = types.int64(_PARAMETERS)


def _pointer_to(element: Any) -> Any:
    result = types.CPointer(element)

    @intrinsic
    def cast(typing_context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(result))

        return result(types.int64), code

    return cast


u8 = _pointer_to(types.uint8)
u16 = _pointer_to(types.uint16)
u32 = _pointer_to(types.uint32)
u64 = _pointer_to(types.uint64)
i64 = _pointer_to(types.int64)
f32 = _pointer_to(types.float32)
f64 = _pointer_to(types.float64)

#: Decorates a kernel: a function of the address of its int64 parameters that returns an integer. It must neither raise
#: nor allocate: nothing of numba is there when it runs.
kernel = cfunc(SIGNATURE, nopython=True, error_model="numpy", _nrt=False)
#: Decorates what kernels call.
compiled = njit(error_model="numpy", _nrt=False)


@intrinsic
def fraction(typing_context: Any, number: Any) -> Any:
    """The float64 whose bits a number of the block is."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), code


@intrinsic
def root(typing_context: Any, number: Any) -> Any:
    """The square root as the processor takes it: NumPy's needs the C library's."""
    if not isinstance(number, types.Float):
        return None

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [arguments[0].type]), arguments)

    return number(number), code


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Have the cache line at an address read before it is needed; an address may be anything."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = ir.IntType(32)
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        reads = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        # For reading, into every level of the cache, as data.
        builder.call(reads, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), code
