"""Addresses as typed pointers: what kernels are given and how they read it."""

from __future__ import annotations

from typing import Any

from numba import types
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
