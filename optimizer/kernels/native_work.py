"""The arguments of a step in C."""

import ctypes

WHOLE, COUNT, MOVE = range(3)
"""The parts of a step that counts signs, by the numbers of native.c."""


class Work(ctypes.Structure):
    """The arguments of a step; the same struct as in native.c."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("choice", ctypes.c_int64),
        ("phase", ctypes.c_int64),
        ("tensors", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("numbers", ctypes.POINTER(ctypes.c_double)),
        ("wholes", ctypes.POINTER(ctypes.c_int64)),
        ("agreeing", ctypes.c_void_p),
        ("scale", ctypes.c_double),
        ("sums", ctypes.c_void_p),
    )
