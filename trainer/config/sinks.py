"""`train.log`: the metrics sinks of a run."""

from typing import Annotated

from pydantic import AfterValidator

from optimizer import UnknownKeyError
from optimizer.config import UNKNOWN_KEY, refusal

from ..interfaces.metrics_sink import SINK_REGISTRY


def _check_keys(keys: list[str]) -> list[str]:
    if "jsonl" not in keys:
        raise refusal(f"must contain jsonl, which a resume reads: [{', '.join(['jsonl', *keys])}]", (), keys)
    if len(set(keys)) < len(keys):
        raise refusal("must name each place once", (), keys)
    for index, key in enumerate(keys):
        if "." in key:  # a class, which is imported while the config's folder is searched
            try:
                SINK_REGISTRY[key]
            except UnknownKeyError as error:
                raise refusal(str(error), (index,), key, UNKNOWN_KEY) from None
    return keys


SinkKeys = Annotated[list[str], AfterValidator(_check_keys)]
"""Keys of metrics sinks, with jsonl among them."""
