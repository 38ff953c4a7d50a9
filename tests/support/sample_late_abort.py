"""A module that aborts the process when Python takes it down, as a thread of gloo does now and then."""

import atexit
import os


class Aborts:
    def __del__(self, abort=os.abort):
        abort()


LAST = Aborts()
atexit.register(print, "called at exit", flush=True)
