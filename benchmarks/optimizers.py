"""One step of our optimizers and of the peers' over the same parameters, side by side, and each in a new process."""

import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import bandwidth
import peers
import torch
from measuring import DEVICE, extra_memory, machine, medians, table
from names import CAUTIOUS, CLIPPED, FUSED, LIBRARY, SCHEDULE_FREE, TIMM, UNCLIPPED, USUAL, WARMUP
from process_turns import medians_apart
from tensors import CLIP_NORM, SHAPES, Shapes, Step, elements, parameters, with_gradients

from optimizer import OPTIMIZER_BUILDER_REGISTRY, Horizon
from optimizer.kernels import implementation_of
from optimizer.kernels.registry import kernel_by_name

CALLS = 10 if DEVICE == "cuda" else 1
"""Steps in a round: enough that a device does not wait for the first one's launch."""
ROUNDS = 15
HALF = torch.bfloat16

ADAMW: dict[str, Any] = {"lr": 1e-3, "schedule": {"type": "cosine"}}
WITH_CAUTION: dict[str, Any] = {**ADAMW, "use_cautious_optimizer": True}
ROUNDED: dict[str, Any] = {**ADAMW, "stochastic_rounding": True}


@dataclass(frozen=True)
class Contender:
    """A step to compare: a function that makes it, and the bytes that it must move for each parameter."""

    make: Callable[[], Step]
    bytes_each: int = bandwidth.ADAMW


@dataclass(frozen=True)
class Results:
    """Seconds of a step by name, side by side and in new processes, the bandwidths of simple operations that took turns
    with them in either way, the bytes that a step must move for each parameter, and why contenders were left out."""

    together: dict[str, float]
    alone: dict[str, float]
    bandwidths: dict[str, dict[str, float]]
    bytes_each: dict[str, int]
    left_out: dict[str, str]


def built(
    key: str, shapes: Shapes = SHAPES, *, dtype: torch.dtype = torch.float32, kernel: str | None = None, **params: Any
) -> Any:
    """Return an optimizer of ours, without clipping unless `params` have it; `kernel` names one to use instead."""
    factory: Any = OPTIMIZER_BUILDER_REGISTRY[key]
    factory = factory(**{"grad_clip_norm": None, **params})
    optimizer = factory.build(parameters(shapes, dtype), horizon=Horizon(10**6))
    if kernel is not None:
        optimizer.use_kernel(kernel_by_name(kernel))
    return optimizer


def ours(key: str, shapes: Shapes = SHAPES, **options: Any) -> Step:
    """Return the step of an optimizer of ours."""
    step: Step = built(key, shapes, **options).step
    return step


def ours_anew(**params: Any) -> Step:
    """Return the step of our AdamW, with its gradients put back before each turn."""
    optimizer = built("adamw", **ADAMW, **params)
    return with_gradients(optimizer.param_groups[0]["params"], optimizer.step)


def ours_started(**params: Any) -> Step:
    """Return the step of our schedule-free RAdam, beyond the updates in which it does nothing."""
    return peers.started(ours("schedule_free_radam", lr=1e-3, **params))


@cache
def compiled_by_default(key: str, *, cautious: bool = False, dtype: torch.dtype = torch.float32) -> bool:
    """Return whether `auto` takes the compiled steps for parameters of this size."""
    params: dict[str, Any] = {"use_cautious_optimizer": True} if cautious else {}
    return implementation_of(built(key, dtype=dtype, **params)) == "compiled"


def adamw() -> dict[str, Contender]:
    """Return the steps of AdamW."""
    compiled = {"`adamw`, compiled": Contender(partial(ours, "adamw", **ADAMW, implementation="compiled"))}
    in_bfloat16 = partial(ours, "adamw", **ADAMW, implementation="compiled", state_dtype="bfloat16")
    halves = {"`adamw`, compiled, moments in bfloat16": Contender(in_bfloat16, bandwidth.HALF_MOMENTS)}
    warmup = partial(ours, "adamw_warmup_cosine_decay", peak_lr=1e-3, warmup_steps=100)
    return {
        FUSED: Contender(peers.fused),
        USUAL: Contender(peers.two_objects),
        WARMUP: Contender(warmup),
        "`adamw`": Contender(partial(ours, "adamw", **ADAMW)),
        "`adamw`, fused": Contender(partial(ours, "adamw", **ADAMW, implementation="fused")),
        **({} if compiled_by_default("adamw") else compiled),
        **(halves if DEVICE == "cpu" else {}),
        "`adamw`, one tensor at a time": Contender(partial(ours, "adamw", **ADAMW, implementation="single")),
        "optimi.AdamW": Contender(peers.optimis),
        "torchao.optim._AdamW, compiled by torch": Contender(partial(peers.torchaos, "_AdamW")),
        "torchao.optim.AdamW8bit, compiled by torch": Contender(
            partial(peers.torchaos, "AdamW8bit"), bandwidth.BYTE_MOMENTS
        ),
        "bitsandbytes.optim.AdamW": Contender(partial(peers.bitsandbytes, "AdamW")),
        "bitsandbytes.optim.AdamW8bit": Contender(partial(peers.bitsandbytes, "AdamW8bit"), bandwidth.BYTE_MOMENTS),
        "heavyball.AdamW, compiled by torch": Contender(peers.heavyballs),
    }


def clipped() -> dict[str, Contender]:
    """Return the steps of AdamW with clipping, which scales the gradients in each of them, and the one without.

    Before each turn of any, the gradients are written again, as by a backward pass.
    """
    ours_clipped = partial(ours_anew, grad_clip_norm=CLIP_NORM)
    return {
        UNCLIPPED: Contender(ours_anew),
        CLIPPED: Contender(ours_clipped, bandwidth.CLIPPED),
        "`adamw`, clipped, fused": Contender(partial(ours_clipped, implementation="fused"), bandwidth.CLIPPED),
        "torch AdamW(fused=True) and clip_grad_norm_": Contender(peers.fused_and_clipped, bandwidth.CLIPPED),
    }


def cautious() -> dict[str, Contender]:
    """Return the cautious steps of AdamW."""
    compiled = Contender(partial(ours, "adamw", **WITH_CAUTION, implementation="compiled"))
    return {
        FUSED: Contender(peers.fused),
        CAUTIOUS: Contender(partial(ours, "adamw", **WITH_CAUTION)),
        **({} if compiled_by_default("adamw", cautious=True) else {"`adamw`, cautious, compiled": compiled}),
        "`adamw`, cautious, in blocks": Contender(partial(ours, "adamw", **WITH_CAUTION, kernel="cautious_adam")),
        "`adamw`, cautious, the reference": Contender(partial(ours, "adamw", **WITH_CAUTION, implementation="single")),
        "heavyball.AdamW(caution=True), not compiled": Contender(partial(peers.heavyballs, caution=True)),
        "pytorch_optimizer.AdamP(cautious=True), with its projection": Contender(peers.adamp),
        TIMM: Contender(peers.timm_cautious),
    }


def schedule_free() -> dict[str, Contender]:
    """Return the schedule-free steps of RAdam."""
    compiled = {"`schedule_free_radam`, compiled": Contender(partial(ours_started, implementation="compiled"))}
    return {
        LIBRARY: Contender(peers.radam),
        SCHEDULE_FREE: Contender(ours_started),
        **({} if compiled_by_default("schedule_free_radam") else compiled),
        "`schedule_free_radam`, in blocks": Contender(partial(ours_started, kernel="schedule_free_radam")),
        "pytorch_optimizer.ScheduleFreeRAdam": Contender(peers.pytorch_optimizers_radam),
    }


def halves() -> dict[str, Contender]:
    """Return the steps of AdamW over parameters in bfloat16, whose moments have that type too."""
    step = partial(ours, "adamw", dtype=HALF)
    compiled = {"`adamw`, compiled": Contender(partial(step, **ADAMW, implementation="compiled"), bandwidth.HALF)}
    rounded = {"`adamw`, stochastic rounding": Contender(partial(step, **ROUNDED), bandwidth.HALF)}
    factory: Any = OPTIMIZER_BUILDER_REGISTRY["adamw"]
    has_rounding = "stochastic_rounding" in factory.model_fields
    rounding = partial(peers.torchaos, "_AdamW", dtype=HALF, bf16_stochastic_round=True)
    return {
        FUSED: Contender(partial(peers.fused, HALF), bandwidth.HALF),
        "`adamw`": Contender(partial(step, **ADAMW), bandwidth.HALF),
        **({} if compiled_by_default("adamw", dtype=HALF) else compiled),
        **(rounded if has_rounding else {}),
        "optimi.AdamW, Kahan summation": Contender(partial(peers.optimis, HALF), bandwidth.HALF_WITH_REMAINDER),
        "torchao.optim._AdamW, stochastic rounding, compiled by torch": Contender(rounding, bandwidth.HALF),
    }


TITLES: Mapping[str, Callable[[], dict[str, Contender]]] = {
    "AdamW": adamw,
    "Clipped AdamW": clipped,
    "Cautious AdamW": cautious,
    "Schedule-free RAdam": schedule_free,
    "AdamW, parameters in bfloat16": halves,
}
"""Functions that return the contenders of each title. The first contender is what the others are compared with."""


def one_line(error: BaseException) -> str:
    """Return an error as a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def together(title: str) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Return the seconds of a step of each contender, taking turns in this process with simple operations, the
    bandwidths of those, and why some contenders were left out."""
    steps: dict[str, Step] = {}
    left_out: dict[str, str] = {}
    for name, contender in TITLES[title]().items():
        try:
            step = contender.make()
            step()
            steps[name] = step
        except Exception as error:  # a peer that is missing, or that cannot work here
            left_out[name] = one_line(error)
    count = elements(SHAPES)
    operations = {name: bandwidth.operation(name, count) for name in bandwidth.WORDS}
    times = medians({**steps, **operations}, ROUNDS, CALLS)
    return {name: times[name] for name in steps}, bandwidth.rates(times, count), left_out


def alone(title: str, names: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of a step of each contender, and the bandwidths of simple operations: all take turns, each in
    a new process."""
    count = elements(SHAPES)
    steps = {name: partial(made, title, name) for name in names}
    operations = {name: partial(bandwidth.operation, name, count) for name in bandwidth.WORDS}
    times = medians_apart({**steps, **operations}, ROUNDS, CALLS)
    return {name: times[name] for name in steps}, bandwidth.rates(times, count)


def made(title: str, name: str) -> Step:
    """Return the step of a contender."""
    return TITLES[title]()[name].make()


def bytes_of(title: str) -> dict[str, int]:
    """Return the bytes that the step of each contender must move for each parameter."""
    return {name: contender.bytes_each for name, contender in TITLES[title]().items()}


def measured(title: str) -> Results:
    """Return the results of the contenders of a title. New processes are forks of this one, which has imported torch
    and computed nothing; also the steps side by side run in one."""
    import_module("torch._dynamo")  # which every optimizer imports

    def forked(function: Callable[..., Any], *arguments: str) -> Any:
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            return pool.submit(function, *arguments).result()

    side_by_side, bandwidths, left_out = forked(together, title)
    on_its_own, bandwidths_apart = alone(title, side_by_side)
    rates = {"together": bandwidths, "alone": bandwidths_apart}
    return Results(side_by_side, on_its_own, rates, forked(bytes_of, title), left_out)


def about() -> dict[str, Any]:
    """Return the machine, the versions of the peers, and how steps of ours are taken by default, by title and name."""
    taken = {
        "`adamw`": built("adamw"),
        CAUTIOUS: built("adamw", use_cautious_optimizer=True),
        SCHEDULE_FREE: built("schedule_free_radam"),
        "`adamw` in bfloat16": built("adamw", dtype=HALF),
    }
    implementations = {name: implementation_of(optimizer) for name, optimizer in taken.items()}
    return {"machine": machine(), "versions": peers.versions(), "implementations": implementations}


def memory() -> dict[str, float]:
    """Return the most memory that a step takes beside parameters, gradients and state, as a share of the parameters."""
    found: dict[str, float] = {}
    for title, contenders in TITLES.items():
        for name, contender in contenders().items() if DEVICE == "cuda" or title != TITLES_IN_HALF else ():
            try:
                step = contender.make()
                step()
                step()
            except Exception:  # left out where times are
                continue
            found[name] = extra_memory(step) / whole()
    return found


TITLES_IN_HALF = "AdamW, parameters in bfloat16"


def whole() -> int:
    """Return the bytes of all parameters."""
    return bandwidth.WORD * elements(SHAPES)


def main() -> None:
    """Measure and print the times side by side and in new processes, of the titles that are given or of all."""
    print(machine())
    for title in sys.argv[1:] or TITLES:
        results = measured(title)
        for times in (results.together, results.alone):
            print(f"\n{title}\n\n{table(times, next(iter(times)))}", flush=True)
        print("\n".join(f"{name}: left out, {reason}" for name, reason in results.left_out.items()))


if __name__ == "__main__":
    main()
