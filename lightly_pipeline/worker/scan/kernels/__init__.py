"""The per-frame arithmetic, compiled by numba: imported only when machine code has to be made.

Each kernel takes the address of an int64 parameter block that holds addresses and sizes, touches nothing else and
cannot raise; the layout of the block is in its docstring. The bytes of these files are part of the cache key.
"""
