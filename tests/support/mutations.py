"""Checkpoints with a mistake in one file: changed bytes or changed values."""

import json
import random
import struct

from trainer.run_layout import MANIFEST
from trainer.runtime.files import checksum, checksum_of

DEEP = "[" * 600 + "]" * 600
STRANGE = [
    *(None, True, False, 0, -1, 3, 0.5, -1e308, 1e308, 10**30, -(10**19), float("nan"), float("inf")),
    *("", "x", "\ud800", "os.system", "torch.load", "../../x", "\0", "9" * 5000, "step_00000001", "float64"),
    *([], {}, [[]], [None], {"x": 1}, [1, "x"], {"tensor": "x"}, {"torch_dtype": "os"}, {"dict": 3}),
    *({"list": {}}, {"set": [{"list": []}]}, {"scalar": [1, "x"], "dtype": "torch.load"}, {"dict": [["a", 1, 2]]}),
    *({"scalar": 10**30, "dtype": "torch.int8"}, {"scalar": {}, "dtype": 3}, json.loads(DEEP), list(range(700))),
]


class Twice(dict):
    """An object that is written with its first key twice."""


def in_bytes(content, chance):
    """Return `content` with bytes flipped, deleted, inserted or cut off."""
    changed = bytearray(content)
    at = chance.randrange(len(changed) or 1)
    kind = chance.choice(("flip", "delete", "insert", "cut", "swap"))
    if kind == "flip":
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    elif kind == "delete":
        del changed[at : at + chance.choice((1, 2, 16))]
    elif kind == "insert":
        changed[at:at] = chance.choice((b"\0", b"9", b"[", b'"', b"{}", b"\xff\xfe", DEEP.encode() * 200))
    elif kind == "cut":
        del changed[at:]
    else:
        other = chance.randrange(len(changed))
        changed[at], changed[other] = changed[other], changed[at]
    return bytes(changed)


def in_values(value, chance):
    """Return plain values with one of them replaced, dropped, renamed or given twice."""
    value = json.loads(json.dumps(value))
    container, key = chance.choice(list(places(value)))
    kind = chance.choice(("replace", "replace", "replace", "drop", "rename", "twice", "move"))
    if kind == "replace" or isinstance(container, list):
        container[key] = chance.choice(STRANGE)
    elif kind == "drop":
        del container[key]
    elif kind == "rename":
        container[chance.choice(("x", "", "params", "__class__", key + "/", key[:-1]))] = container.pop(key)
    elif kind == "twice":
        return json.dumps(value).replace(json.dumps(key) + ":", f"{json.dumps(key)}: 1, {json.dumps(key)}:", 1)
    else:
        other, other_key = chance.choice(list(places(value)))
        if not within(container[key], other):
            other[other_key] = container[key]
    return json.dumps(value)


def places(value, weight=40):
    """Yield every place in plain values; of a long list a few."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:weight]) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from places(item, 4)


def within(value, other):
    return value is other or any(within(container[key], other) for container, key in places(value))


def mutated(path, content, chance):
    """Return the content of the file `path` with one mistake in it."""
    if chance.random() < 0.35:
        return in_bytes(content, chance)
    if path.suffix == ".json":
        return in_values(json.loads(content), chance).encode()
    length = struct.unpack("<Q", content[:8])[0]
    header, rest = content[8 : 8 + length], content[8 + length :]
    if chance.random() < 0.2:
        wrong = chance.choice((0, 1, length - 1, length + 1, len(content), 2**31, 2**63 - 1, 2**63, 2**64 - 1))
        return struct.pack("<Q", wrong) + header + rest
    header = in_bytes(header, chance) if chance.random() < 0.2 else in_header(json.loads(header), chance)
    return struct.pack("<Q", len(header)) + header + rest


def in_header(header, chance):
    if chance.random() < 0.4:
        return in_values(header, chance).encode()
    name = chance.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    kind = chance.choice(("dtype", "shape", "flat", "offsets"))
    if kind == "dtype":
        entry["dtype"] = chance.choice(("I32", "U8", "F16", "BF16", "F8_E4M3", "C64", "BOOL", "F64", "U32"))
    elif kind == "shape":
        entry["shape"] = chance.choice(([2, 2], [-1], [0], [1] * 70, [2**40, 2**40], [*entry["shape"], 1], [1.5]))
    elif kind == "flat":
        entry["shape"] = [*reversed(entry["shape"])] if len(set(entry["shape"])) > 1 else [1, *entry["shape"]]
    else:
        entry["data_offsets"] = chance.choice(([0, 0], [0, 2**62], [8, 4], [-4, 4], entry["data_offsets"][:1]))
    return json.dumps(header).encode()


def seal(folder):
    """Update the manifest to the files as they are now."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        for name in manifest["files"]:
            path = folder / name
            manifest["files"][name] = {"size_bytes": path.stat().st_size, "xxh3_128": checksum(path)}
        seal_manifest(folder, manifest)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return  # there is nothing to seal


def seal_manifest(folder, manifest):
    manifest.pop("checksum", None)
    (folder / MANIFEST).write_text(json.dumps(manifest | {"checksum": checksum_of(manifest)}))


def chance_of(seed):
    return random.Random(seed)
