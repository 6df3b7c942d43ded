"""Whether a reference picture of an h264 stream is missing, by the numbers that the encoder gave them.

libav fills the hole with an older picture and says nothing. Reference pictures are numbered one by one (ITU-T H.264
7.4.3, frame_num), so a jump means that one was lost on the way; a picture that a camera skipped leaves none.
"""

from __future__ import annotations

from lightly_pipeline.worker.scan.packets import Packet, first_slice

#: Profiles whose parameter set says more about colour (7.3.2.1.1).
_HIGH = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
#: Bytes of a slice in which its number lies for certain.
_HEADER = 32


class _Bits:
    """Reads bits and Exp-Golomb numbers (9.1), without the bytes that only keep start codes apart."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(plain, "big")
        self._left = 8 * len(plain)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("no bits left")
        return (self._value >> self._left) & ((1 << count) - 1)

    def number(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        code = self.number()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _parameter_set(extradata: bytes) -> bytes | None:
    """The one sequence parameter set of a stream, without its header; None when there is not exactly one."""
    if extradata[:1] == b"\1":
        if len(extradata) < 8 or extradata[5] & 31 != 1:
            return None
        return extradata[9 : 8 + int.from_bytes(extradata[6:8], "big")]
    found = [unit for unit in extradata.split(b"\0\0\1") if unit and unit[0] & 31 == 7]
    return found[0][1:] if len(found) == 1 else None


def _number_bits(parameters: bytes) -> int | None:
    """How many bits a number has; None when the stream may leave numbers out."""
    bits = _Bits(parameters)
    profile = bits.take(8)
    bits.take(16)
    bits.number()
    if profile in _HIGH:
        chroma = bits.number()
        if chroma == 3 and bits.take(1):
            return None
        bits.number()
        bits.number()
        bits.take(1)
        if bits.take(1):
            for size in [16] * 6 + [64] * (2 if chroma != 3 else 6):
                if bits.take(1):
                    _skip_scaling_list(bits, size)
    width = bits.number() + 4
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.number()):
            bits.signed()
    bits.number()
    return None if bits.take(1) or width > 16 else width


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


class FrameNumbers:
    """Follows the numbers of one run of packets, in decoding order."""

    def __init__(self, extradata: bytes | None) -> None:
        self._extradata = extradata
        self._bits: int | None = None
        self._last: int | None = None
        try:
            parameters = _parameter_set(extradata) if extradata else None
            self._bits = _number_bits(parameters) if parameters else None
        except ValueError:
            return

    def jump(self, packet: Packet) -> str | None:
        """A sentence when a reference picture is missing before this packet.

        A jump to 0 or 1 is not told: an encoder may begin to count again without resetting the decoder.
        """
        if self._bits is None:
            return None
        data = memoryview(packet)
        start = first_slice(data, "h264", self._extradata)
        if start is None:
            return None
        header = data[start]
        bits = _Bits(bytes(data[start + 1 : start + 1 + _HEADER]))
        try:
            for _ in range(3):  # first macroblock, kind of slice, picture parameter set
                bits.number()
            number = bits.take(self._bits)
        except ValueError:
            return None
        last, following = self._last, (self._last or 0) + 1
        if header & 31 == 5:
            last = None
        if header & 0x60:
            self._last = number
        if last is None or number in (0, 1, last, following % (1 << self._bits)):
            return None
        return f"a picture that it is predicted from is missing (the encoder's count jumps from {last} to {number})"
