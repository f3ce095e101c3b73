"""Counts the pixels that the LZW codes of a GIF stand for, apart from any library."""

from __future__ import annotations

from collections.abc import Iterator

_SEPARATOR = b","


def pixels(gif: bytes) -> int:
    """Of the first picture, up to the end of its codes or the first one that cannot be."""
    start = _first_picture(gif) + 9
    flags = gif[start]
    position = start + 1 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return _count(_blocks(gif, position + 1), gif[position])


def _first_picture(gif: bytes) -> int:
    position = 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0)
    while gif[position : position + 1] != _SEPARATOR:
        position += 2
        while gif[position]:
            position += 1 + gif[position]
        position += 1
    return position


def _blocks(gif: bytes, position: int) -> bytes:
    data = b""
    while position < len(gif) and gif[position]:
        data += gif[position + 1 : position + 1 + gif[position]]
        position += 1 + gif[position]
    return data


def _count(data: bytes, root_bits: int) -> int:
    clear, end = 1 << root_bits, (1 << root_bits) + 1
    total, lengths, before = 0, list[int](), 0
    for code in _codes(data, root_bits, lengths):
        if code == clear:
            lengths[:] = [1] * (end + 1)
            before = 0
            continue
        # A code may be the one that is about to be entered.
        if code == end or code > len(lengths) or (code == len(lengths) and not before):
            break
        if before and len(lengths) < 4096:
            lengths.append(before + 1)
        before = lengths[code]
        total += before
    return total


def _codes(data: bytes, root_bits: int, lengths: list[int]) -> Iterator[int]:
    """Each code, as wide as the table is when it comes."""
    bits, place = int.from_bytes(data, "little"), 0
    lengths[:] = [1] * ((1 << root_bits) + 2)
    while place + root_bits < 8 * len(data):
        # The entry that this code makes counts already.
        width = min(12, max(root_bits + 1, len(lengths).bit_length()))
        yield bits >> place & (1 << width) - 1
        place += width
