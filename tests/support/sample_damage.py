"""Ways to damage a file, and things at a path that are not a file."""

import os
import pickle
import socket
import zipfile

import torch


def flip(path, at=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def repacked(path, edit, compression=zipfile.ZIP_STORED):
    """Write the archive `path` again, each record as `edit` returns it."""
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, edit(name, content))


def shortened(path):
    repacked(path, lambda name, content: content[:8] if "/data/" in name else content)


def compressed(path):
    torch.save({"weight": torch.zeros(3_000_000)}, path)
    repacked(path, lambda name, content: content, zipfile.ZIP_DEFLATED)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def sparse(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def bound(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a socket's path must be short


DAMAGE = {
    "compressed to nothing": (compressed, "unpacks to 12,0"),
    "a record that is too short": (shortened, "cannot be read"),
    "cut": (cut, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("weights"), "cannot be read"),
    "a pickle of plain values": (lambda path: path.write_bytes(pickle.dumps({"weight": 1})), "cannot be read"),
    "a terabyte of nothing": (sparse, "cannot be read"),
}
NOT_FILES = {
    "a pipe": (os.mkfifo, "it is a named pipe, and not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, and not a file"),
    "a socket": (bound, "it is a socket, and not a file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "is missing"),
    "a link to itself": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
}
