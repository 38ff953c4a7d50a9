"""The imports that a server of processes makes once for all of them; see processes.py."""

import pytest  # noqa: F401  # which a test's module imports
import sample_parts  # noqa: F401  # registers components, data sets and objectives
import schedulefree  # noqa: F401  # which a schedule-free optimizer imports when it is built
import torch
import torch._dynamo  # which the first optimizer of a process imports, for seconds
import torch.distributed.fsdp
import torch.distributed.tensor

import trainer.runs  # noqa: F401

torch.set_num_threads(1)  # a pool of threads does not survive a fork
