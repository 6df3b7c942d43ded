"""The loops of the selection, compiled by numba: imported only when machine code has to be made.

The arithmetic is that of `select.distance`, so what comes out is what NumPy would give, bit for bit. `layout` says in
which arrays Python hands over what the loops work on, and does not need numba.
"""
