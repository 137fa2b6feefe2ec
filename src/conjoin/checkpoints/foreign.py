"""Telling what a file is that is not a checkpoint, by its first bytes."""

__all__ = ["explain_foreign"]

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer, a few lines that stand for the real file; fetch that with "
        "`git lfs pull`, or download it from the web page of the repository",
    ),
    (b"<!doctype", "it is a web page; the download was answered by a page (log in?), not a file"),
    (b"<html", "it is a web page; the download was answered by a page (log in?), not a file"),
    (b"<?xml", "it is an XML document, perhaps the error message of a download"),
    (b"gguf", "it is a GGUF file (llama.cpp); pass the safetensors files it was made from"),
    (b"\x89hdf", "it is an HDF5 file (Keras); convert its weights to safetensors first"),
    (b"\x93numpy", "it is a NumPy array; pass {name: torch.from_numpy(array)} instead"),
    (b"\x1f\x8b", "it is compressed with gzip; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; decompress it first"),
    (
        b"{",
        "it is JSON; if it is the index of a checkpoint in several files, pass the folder it is in",
    ),
)


def explain_foreign(head: bytes) -> str | None:
    """Say what a file is by its first bytes and what to do, or None if they are not known.

    >>> explain_foreign(b"<!DOCTYPE html>")
    'it is a web page; the download was answered by a page (log in?), not a file'
    >>> explain_foreign(b"PK") is None
    True
    """
    # The length of a safetensors header can look like anything: 123 begins with a "{" too.
    if head[4:9] == b"\0\0\0\0{":
        return None
    if not head:
        return "it is empty"
    text = head.lstrip().lower()
    return next((words for magic, words in _MAGIC if text.startswith(magic)), None)
