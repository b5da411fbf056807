"""A gzip file unpacked in large pieces."""

from __future__ import annotations

import zlib
from typing import BinaryIO

# To zlib: a gzip file's header and checksum are looked at.
GZIP = 16 + zlib.MAX_WBITS
PIECE = 2**22  # bytes of a file that are unpacked at once


class Gunzip:
    """Unpacks a gzip file of one or several members in large pieces, during which other threads run.

    Python's own reader takes small pieces, and after each one waits for its turn.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._member = zlib.decompressobj(GZIP)
        self._packed = b""

    def read(self, count: int) -> bytes:
        """So many bytes, or fewer at the end of the file. Raises zlib.error and EOFError for what is no whole gzip file."""
        pieces: list[bytes] = []
        while count:
            if self._member.eof and not self._next_member():
                break
            if not self._packed:
                self._packed = self._file.read(PIECE)
                if not self._packed:
                    raise EOFError("it ends too early")
            piece = self._member.decompress(self._packed, count)
            self._packed = self._member.unconsumed_tail or self._member.unused_data
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _next_member(self) -> bool:
        """Whether there is one. Zeros may pad the one before."""
        self._packed = self._packed.lstrip(b"\0")
        while not self._packed:
            piece = self._file.read(PIECE)
            if not piece:
                return False
            self._packed = piece.lstrip(b"\0")
        self._member = zlib.decompressobj(GZIP)
        return True
