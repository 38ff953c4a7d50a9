"""The arguments of a step in C."""

import ctypes

WHOLE, COUNT, MOVE, CHECK = range(4)
"""The parts of a step that counts signs, and the check of the counts of steps, by the numbers of native.c."""


class Work(ctypes.Structure):
    """The arguments of a step; the same struct as in native.c. Pointers are addresses, or None."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("phase", ctypes.c_int64),
        ("tensors", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
        ("wholes", ctypes.c_void_p),
        ("sets", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("streams", ctypes.c_void_p),
        ("agreeing", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("is_noisy", ctypes.c_int64),
        ("sums", ctypes.c_void_p),
    )
