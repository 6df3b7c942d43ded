"""What is measured on a decoded frame: pixel hash, block means, gradients, plain rows, the descriptor."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightly_pipeline.worker.machine_code.addresses import compiled, f32, f64, i64, kernel, prefetch, u8, u16, u32, u64

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_29 = np.uint64(29)
_SEGMENT = 1024  # words that share one run through the key table
_LINE = 64  # bytes of a line of the cache


@compiled
def _hash_rows(plane: int, stride: int, row_bytes: int, rows: int, keys: int, state: int, first: int) -> int:
    """Fold `rows` rows of `row_bytes` bytes into the 128-bit state; return how many rows are one value.

    Each row is reduced by two NH sums (32 x 32 -> 64 bit products of keyed words: universal hashing as in
    UMAC) with independent random keys, which vectorises; the sums are then mixed into the state in order.
    `first`: bytes of one sample (1 or 2; 0 switches the uniform-row count off).
    """
    table = u64(keys)
    s = u64(state)
    a = s[0]
    b = s[1]
    full = row_bytes // 8
    rest = row_bytes - full * 8
    uniform = 0
    for y in range(rows):
        at = plane + y * stride
        # The rows after these, while there is something to be done with these: a third of the whole was waiting.
        for line in range(0, row_bytes, _LINE):
            prefetch(at + rows * stride + line)
        words = u64(at)
        octets = u8(at)
        pattern = np.uint64(0)
        if first == 1:
            pattern = np.uint64(octets[0]) * np.uint64(0x0101010101010101)
        elif first == 2:
            pattern = np.uint64(u16(at)[0]) * np.uint64(0x0001000100010001)
        different = np.uint64(0)
        start = 0
        while start < full:
            count = min(_SEGMENT, full - start)
            x = np.uint64(0)
            z = np.uint64(0)
            for j in range(count):
                w = words[start + j]
                k = w ^ table[j]
                x += (k & _LOW) * (k >> _32)
                k = w + table[_SEGMENT + j]
                z += (k & _LOW) * (k >> _32)
                different |= w ^ pattern
            a = (a ^ x) * _PRIME_1
            a ^= a >> _29
            b = (b ^ z) * _PRIME_2
            b ^= b >> _32
            start += count
        w = np.uint64(0)
        for j in range(rest):
            w |= np.uint64(octets[full * 8 + j]) << np.uint64(8 * j)
            different |= np.uint64(octets[full * 8 + j]) ^ ((pattern >> np.uint64(8 * (j % 8))) & np.uint64(255))
        w += np.uint64(row_bytes)
        a = (a ^ w) * _PRIME_1
        a ^= a >> _29
        b = (b ^ (w + _PRIME_2)) * _PRIME_2
        b ^= b >> _32
        if first and different == 0:
            uniform += 1
    s[0] = a
    s[1] = b
    return uniform


def _block_means(pointer: Any, sum_pointer: Any) -> Any:
    @compiled
    def means(
        plane: int,
        stride: int,
        width: int,
        top: int,
        bottom: int,
        grid: int,
        out: int,
        sums: int,
        offset: float,
        scale: float,
    ) -> None:
        """Write the means of the `grid` blocks of rows `top` to `bottom` - 1 as (mean - offset) * scale.

        Block i spans samples i*n//grid to (i+1)*n//grid (at least one, so that small planes are repeated).
        """
        total = sum_pointer(sums)
        target = f32(out)
        row = pointer(plane + top * stride)
        for x in range(width):
            total[x] = row[x]
        y = top + 1
        while y + 4 <= bottom:
            row = pointer(plane + y * stride)
            row2 = pointer(plane + (y + 1) * stride)
            row3 = pointer(plane + (y + 2) * stride)
            row4 = pointer(plane + (y + 3) * stride)
            for x in range(width):
                total[x] += row[x] + row2[x] + row3[x] + row4[x]
            y += 4
        while y < bottom:
            row = pointer(plane + y * stride)
            for x in range(width):
                total[x] += row[x]
            y += 1
        for bx in range(grid):
            left = bx * width // grid
            right = max((bx + 1) * width // grid, left + 1)
            summed = 0
            for x in range(left, right):
                summed += total[x]
            count = (right - left) * (bottom - top)
            target[bx] = (summed / count - offset) * scale

    return means


def _gradient(pointer: Any, integer: Any) -> Any:
    @compiled
    def energy(plane: int, stride: int, width: int, top: int, bottom: int, step: int) -> int:
        """Sum of squared differences to the right and lower neighbour, on every `step`-th row before `bottom`."""
        total = 0
        for y in range((top + step - 1) // step * step, bottom, step):
            row = pointer(plane + y * stride)
            below = pointer(plane + (y + 1) * stride)
            line = integer(0)
            for x in range(width - 1):
                here = np.int32(row[x])
                right = np.int32(row[x + 1]) - here
                down = np.int32(below[x]) - here
                line += integer(right * right + down * down)
            total += line
        return total

    return energy


# A block of 8-bit samples has at most 257 rows (planes are at most 16,384 high), so its column sums fit 16
# bits.
_means8 = _block_means(u8, u16)
_means16 = _block_means(u16, u32)
_energy8 = _gradient(u8, np.int32)
_energy16 = _gradient(u16, np.int64)


@compiled
def _describe(luma: int, chroma: int, signs: int, rows: int, out: int, workspace: int) -> None:
    """Describe luma f32[64*64] and chroma f32[2*32*32] as a unit vector f32[128]; see `descriptor`."""
    y = f32(luma)
    c = f32(chroma)
    raw = f32(workspace)
    magnitude = f32(workspace + 4 * 512)
    place = f32(workspace + 4 * (512 + 4096))
    for i in range(512):
        raw[i] = np.float32(0)
    # Gradient orientations, 4 x 4 cells of 8 unsigned directions, shared between the two nearest.
    for v in range(64):
        for h in range(64):
            gx = y[v * 64 + h + 1] - y[v * 64 + h - 1] if 0 < h < 63 else np.float32(0)
            gy = y[v * 64 + 64 + h] - y[v * 64 - 64 + h] if 0 < v < 63 else np.float32(0)
            ax = abs(gx)
            ay = abs(gy)
            a = min(ax, ay) / (max(ax, ay) + np.float32(1e-12))
            q = a * a
            poly = ((np.float32(-0.0464964749) * q + np.float32(0.15931422)) * q - np.float32(0.327622764)) * q
            angle = poly * a + a
            if ay > ax:
                angle = np.float32(1.57079633) - angle
            if gx * gy < 0:
                angle = np.float32(3.14159265) - angle
            magnitude[v * 64 + h] = np.sqrt(gx * gx + gy * gy)
            place[v * 64 + h] = angle * np.float32(8 / 3.14159265) + np.float32(7.5)
    for v in range(64):
        for h in range(64):
            cell = ((v >> 4) * 4 + (h >> 4)) * 8
            position = place[v * 64 + h]
            low = int(position)
            share = (position - np.float32(low)) * magnitude[v * 64 + h]
            raw[cell + (low & 7)] += magnitude[v * 64 + h] - share
            raw[cell + ((low + 1) & 7)] += share
    norm = np.float32(0)
    for i in range(128):
        value = raw[i] / np.float32(256)
        raw[i] = np.sqrt(value)
        norm += value
    norm = np.float32(1) / (np.sqrt(norm) + np.float32(0.05))
    for i in range(128):
        raw[i] *= norm
    # A tiny picture: 8 x 8 luma, 4 x 4 of each chroma.
    for v in range(64):
        for h in range(64):
            raw[128 + (v >> 3) * 8 + (h >> 3)] += y[v * 64 + h]
    for i in range(128, 192):
        raw[i] = (raw[i] / np.float32(64) - np.float32(0.5)) * np.float32(0.25)
    for plane in range(2):
        for v in range(32):
            for h in range(32):
                raw[192 + plane * 16 + (v >> 3) * 4 + (h >> 3)] += c[plane * 1024 + v * 32 + h]
    for i in range(192, 224):
        raw[i] *= np.float32(1.4 / 64)
    # Histograms on a 2 x 2 grid: 12 of luma, 6 x 6 of chroma (finer around gray), shared between neighbours.
    for v in range(32):
        for h in range(32):
            corner = v * 128 + h * 2
            mean = (y[corner] + y[corner + 1] + y[corner + 64] + y[corner + 65]) * np.float32(0.25)
            position = min(max(mean * np.float32(12) - np.float32(0.5), np.float32(0)), np.float32(10.999))
            low = int(position)
            share = position - np.float32(low)
            cell = (v >> 4) * 2 + (h >> 4)
            raw[224 + cell * 12 + low] += np.float32(1) - share
            raw[224 + cell * 12 + low + 1] += share
            at = 272 + cell * 36
            u = c[v * 32 + h]
            w = c[1024 + v * 32 + h]
            su = np.sqrt(min(abs(u), np.float32(0.5)) * np.float32(2))
            sw = np.sqrt(min(abs(w), np.float32(0.5)) * np.float32(2))
            pu = np.float32(2.5) + (su if u > 0 else -su) * np.float32(3)
            pw = np.float32(2.5) + (sw if w > 0 else -sw) * np.float32(3)
            pu = min(max(pu, np.float32(0)), np.float32(4.999))
            pw = min(max(pw, np.float32(0)), np.float32(4.999))
            iu = int(pu)
            iw = int(pw)
            fu = pu - np.float32(iu)
            fw = pw - np.float32(iw)
            raw[at + iu * 6 + iw] += (np.float32(1) - fu) * (np.float32(1) - fw)
            raw[at + iu * 6 + iw + 1] += (np.float32(1) - fu) * fw
            raw[at + iu * 6 + 6 + iw] += fu * (np.float32(1) - fw)
            raw[at + iu * 6 + 6 + iw + 1] += fu * fw
    for i in range(224, 416):
        raw[i] = np.sqrt(raw[i]) * np.float32(0.5 / 32)
    # Random signs, Walsh-Hadamard, 128 of the 512 coordinates: an orthogonal projection that keeps distances.
    sign = f32(signs)
    for i in range(416):
        raw[i] *= sign[i]
    half = 1
    while half < 512:
        for start in range(0, 512, 2 * half):
            for i in range(start, start + half):
                a = raw[i]
                b = raw[i + half]
                raw[i] = a + b
                raw[i + half] = a - b
        half *= 2
    chosen = i64(rows)
    target = f32(out)
    norm = np.float32(0)
    for i in range(128):
        value = raw[chosen[i]]
        target[i] = value
        norm += value * value
    norm = np.float32(1) / max(np.sqrt(norm), np.float32(1e-12))
    for i in range(128):
        target[i] *= norm


@kernel
def describe(parameters: Any) -> int:
    """[0] luma f32[64*64]; [1] chroma f32[2*32*32]; [2] signs f32[512]; [3] rows i64[128]; [4] out f32[128];
    [5] workspace f32[512 + 2*4096].
    """
    _describe(parameters[0], parameters[1], parameters[2], parameters[3], parameters[4], parameters[5])
    return 0


@compiled
def _gray_rows(plane: int, stride: int, width: int, rows: int, sample: int, gray: int) -> int:
    """How many rows, from the lowest upwards, are nothing but the value `gray`."""
    y = rows - 1
    while y >= 0:
        if sample == 1:
            row = u8(plane + y * stride)
            for x in range(width):
                if row[x] != gray:
                    return rows - 1 - y
        else:
            wide = u16(plane + y * stride)
            for x in range(width):
                if wide[x] != gray:
                    return rows - 1 - y
        y -= 1
    return rows


def _measure(means: Any, energy: Any, sample: int) -> Any:
    @kernel
    def measure(parameters: Any) -> int:
        """Hash, block means, sharpness of one planar frame.

        [0] keys u64[2048]; [1] state u64[2] (in, out); [2] luma f32[64*64]; [3] chroma f32[2*32*32];
        [4] numbers f64[9]: out [0] gradient energy, [1] uniform rows, [6] mean, [7] contrast, [8] gray rows;
        in [2] luma offset, [3] luma scale,
        [4] chroma offset, [5] chroma scale; [5] workspace u32[widest row]; [6] planes to hash; [7] planes to
        measure (1 gray, 3 colour); [8] describe too when not 0; [9] signs f32[512]; [10] rows i64[128]; [11]
        out f32[128]; from [12] four numbers for each plane: address, stride, width in samples, rows; [28] the
        gray that decoders conceal with. The workspace holds at least
        512 + 2*4096 numbers.
        """
        state = parameters[1]
        numbers = f64(parameters[4])
        # Strip by strip, so that a picture comes from memory once.
        for i in range(max(parameters[6], parameters[7])):
            p = 12 + 4 * i
            plane, stride, width, rows = parameters[p], parameters[p + 1], parameters[p + 2], parameters[p + 3]
            hashed, measured = i < parameters[6], i < parameters[7]
            grid = 64 if i == 0 else 32
            out = parameters[2] if i == 0 else parameters[3] + (i - 1) * 32 * 32 * 4
            offset, scale = (numbers[2], numbers[3]) if i == 0 else (numbers[4], numbers[5])
            step = 8 if rows >= 480 else 2
            uniform, gradient, done = 0, 0, 0
            for strip in range(grid):
                top = strip * rows // grid
                bottom = max((strip + 1) * rows // grid, top + 1)
                if hashed and bottom > done:
                    uniform += _hash_rows(
                        plane + done * stride,
                        stride,
                        width * sample,
                        bottom - done,
                        parameters[0],
                        state,
                        sample if i == 0 else 0,
                    )
                if measured:
                    means(plane, stride, width, top, bottom, grid, out + strip * grid * 4, parameters[5], offset, scale)
                    if i == 0 and bottom > done:
                        gradient += energy(plane, stride, width, done, min(bottom, rows - 1), step)
                done = max(done, bottom)
            if i == 0:
                numbers[1] = uniform
                if hashed:
                    numbers[8] = _gray_rows(plane, stride, width, rows, sample, parameters[28])
                if measured:
                    looked_at = ((rows - 2) // step + 1) * (width - 1)
                    mean = gradient / looked_at if rows > 1 and width > 1 else 0.0
                    numbers[0] = mean * scale * scale
        if parameters[7] > 0:
            picture = f32(parameters[2])
            total = 0.0
            squares = 0.0
            for i in range(4096):
                value = np.float64(picture[i])
                total += value
                squares += value * value
            numbers[6] = total / 4096
            numbers[7] = np.sqrt(max(squares / 4096 - numbers[6] * numbers[6], 0.0))
        if parameters[8] != 0:
            _describe(parameters[2], parameters[3], parameters[9], parameters[10], parameters[11], parameters[5])
        return 0

    return measure


measure8 = _measure(_means8, _energy8, 1)
measure16 = _measure(_means16, _energy16, 2)
