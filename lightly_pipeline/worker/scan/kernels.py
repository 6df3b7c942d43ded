"""The per-frame arithmetic, compiled by numba: imported only when machine code has to be made (see
`compiled`).

Each kernel takes the address of an int64 parameter block that holds addresses and sizes, touches nothing else
and cannot raise; the layout of the block is in its docstring. The file's bytes are part of the cache key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types
from numba.extending import intrinsic

_PARAMETERS = types.CPointer(types.int64)
_SIGNATURE = types.int64(_PARAMETERS)


def _pointer_to(element: Any) -> Any:
    result = types.CPointer(element)

    @intrinsic
    def cast(typing_context: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(result))

        return result(types.int64), code

    return cast


u8 = _pointer_to(types.uint8)
u16 = _pointer_to(types.uint16)
u32 = _pointer_to(types.uint32)
u64 = _pointer_to(types.uint64)
i64 = _pointer_to(types.int64)
f32 = _pointer_to(types.float32)
f64 = _pointer_to(types.float64)

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_29 = np.uint64(29)
_SEGMENT = 1024  # words that share one run through the key table


@njit(error_model="numpy")
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
    @njit(error_model="numpy")
    def means(
        plane: int,
        stride: int,
        width: int,
        rows: int,
        grid: int,
        out: int,
        sums: int,
        offset: float,
        scale: float,
    ) -> None:
        """Write the grid x grid means of a plane's blocks as (mean - offset) * scale.

        Block i spans samples i*n//grid to (i+1)*n//grid (at least one, so that small planes are repeated).
        """
        total = sum_pointer(sums)
        target = f32(out)
        for by in range(grid):
            top = by * rows // grid
            bottom = max((by + 1) * rows // grid, top + 1)
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
                target[by * grid + bx] = (summed / count - offset) * scale

    return means


def _gradient(pointer: Any, integer: Any) -> Any:
    @njit(error_model="numpy")
    def energy(plane: int, stride: int, width: int, rows: int, step: int) -> float:
        """Mean squared difference to the right and lower neighbour, on every `step`-th row."""
        if width < 2 or rows < 2:
            return 0.0
        total = 0
        count = 0
        for y in range(0, rows - 1, step):
            row = pointer(plane + y * stride)
            below = pointer(plane + (y + 1) * stride)
            line = integer(0)
            for x in range(width - 1):
                here = np.int32(row[x])
                right = np.int32(row[x + 1]) - here
                down = np.int32(below[x]) - here
                line += integer(right * right + down * down)
            total += line
            count += width - 1
        return total / count

    return energy


# A block of 8-bit samples has at most 257 rows (planes are at most 16,384 high), so its column sums fit 16
# bits.
_means8 = _block_means(u8, u16)
_means16 = _block_means(u16, u32)
_energy8 = _gradient(u8, np.int32)
_energy16 = _gradient(u16, np.int64)


@njit(error_model="numpy")
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


@cfunc(_SIGNATURE, nopython=True, error_model="numpy")
def _describe_only(parameters: Any) -> int:
    """[0] luma f32[64*64]; [1] chroma f32[2*32*32]; [2] signs f32[512]; [3] rows i64[128]; [4] out f32[128];
    [5] workspace f32[512 + 2*4096].
    """
    _describe(parameters[0], parameters[1], parameters[2], parameters[3], parameters[4], parameters[5])
    return 0


@njit(error_model="numpy")
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
    @cfunc(_SIGNATURE, nopython=True, error_model="numpy")
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
        uniform = 0
        for i in range(parameters[6]):
            p = 12 + 4 * i
            same = _hash_rows(
                parameters[p],
                parameters[p + 1],
                parameters[p + 2] * sample,
                parameters[p + 3],
                parameters[0],
                state,
                sample if i == 0 else 0,
            )
            if i == 0:
                uniform = same
        numbers[1] = uniform
        if parameters[6] > 0:
            numbers[8] = _gray_rows(
                parameters[12], parameters[13], parameters[14], parameters[15], sample, parameters[28]
            )
        if parameters[7] > 0:
            plane, stride, width, rows = parameters[12], parameters[13], parameters[14], parameters[15]
            means(plane, stride, width, rows, 64, parameters[2], parameters[5], numbers[2], numbers[3])
            picture = f32(parameters[2])
            total = 0.0
            squares = 0.0
            for i in range(4096):
                value = np.float64(picture[i])
                total += value
                squares += value * value
            numbers[6] = total / 4096
            numbers[7] = np.sqrt(max(squares / 4096 - numbers[6] * numbers[6], 0.0))
            numbers[0] = energy(plane, stride, width, rows, 8 if rows >= 480 else 2) * numbers[3] * numbers[3]
        for i in range(1, parameters[7]):
            p = 12 + 4 * i
            means(
                parameters[p],
                parameters[p + 1],
                parameters[p + 2],
                parameters[p + 3],
                32,
                parameters[3] + (i - 1) * 32 * 32 * 4,
                parameters[5],
                numbers[4],
                numbers[5],
            )
        if parameters[8] != 0:
            _describe(parameters[2], parameters[3], parameters[9], parameters[10], parameters[11], parameters[5])
        return 0

    return measure


@njit(error_model="numpy")
def _filter_row(row: int, above: int, octets: int, out: int) -> None:
    """PNG filter 2 (up): each byte less the one above it."""
    x = u8(row)
    b = u8(above)
    o = u8(out)
    for i in range(octets):
        o[i] = x[i] - b[i]


@cfunc(_SIGNATURE, nopython=True, error_model="numpy")
def _png_histogram(parameters: Any) -> int:
    """Count filtered bytes on every eighth row.

    [0] picture; [1] stride; [2] bytes in a row; [3] rows; [4] workspace, at least a row and 16 bytes; [5]
    counts u32[256], out.
    """
    picture, stride, octets, rows = parameters[0], parameters[1], parameters[2], parameters[3]
    counts = u32(parameters[5])
    filtered = u8(parameters[4])
    for i in range(256):
        counts[i] = 0
    for y in range(1 if rows > 1 else 0, rows, 8):
        _filter_row(picture + y * stride, picture + max(y - 1, 0) * stride, octets, parameters[4])
        for i in range(octets):
            counts[filtered[i]] += 1
    return 0


@cfunc(_SIGNATURE, nopython=True, error_model="numpy")
def _png_deflate(parameters: Any) -> int:
    """Filter the rows and append them to a deflate block; return the number of bytes in the output.

    [0] to [4] as in the histogram (the workspace has 64 bytes more than a row); [5] pairs u32[65536]: the
    codes of two bytes in the low 24 bits, their length above; [6] code and length << 16 of a zero run of 258
    bytes (length symbol and distance 1); [7] code and length << 16 of the end of the block; [8] output, large
    enough;
    [9] bits already in the output's last byte; [10] bytes in the output before; [11] adler, out.
    """
    picture, stride, octets, rows = parameters[0], parameters[1], parameters[2], parameters[3]
    work = parameters[4]
    pairs = u32(parameters[5])
    run_code = np.uint64(parameters[6] & 0xFFFF)
    run_bits = parameters[6] >> 16
    at = parameters[8] + parameters[10]
    count = parameters[9]
    bits = np.uint64(u8(at)[0]) if count > 0 else np.uint64(0)
    filtered = u8(work)
    halves = u16(work)
    words = u64(work)
    low = np.int64(1)
    high = np.int64(0)
    size = octets + 1
    carry = 0  # 1 when a byte of the row before waits in filtered[0]
    for y in range(rows):
        start = work + carry
        u8(start)[0] = np.uint8(2)
        if y > 0:
            _filter_row(picture + y * stride, picture + (y - 1) * stride, octets, start + 1)
        else:
            source = u8(picture)
            target = u8(start)
            for i in range(octets):
                target[1 + i] = source[i]
        # Adler-32 of this row, in stretches short enough for 64-bit sums.
        data = u8(start)
        one = np.uint64(0)
        two = np.uint64(0)
        for i in range(size):
            value = np.uint32(data[i])
            one += value
            two += np.uint64(np.uint32(size - i) * value)
        high = (high + size * low + np.int64(two)) % 65521
        low = (low + np.int64(one)) % 65521
        total = carry + size
        i = 0
        while i + 1 < total:
            if (i & 7) == 0 and i + 264 <= total and i > 0 and words[i >> 3] == 0 and filtered[i - 1] == 0:
                end = i
                while end + 8 <= total and words[end >> 3] == 0:
                    end += 8
                runs = (end - i) // 258
                # Whole words are skipped so that pairs stay aligned: 4 runs of 258 are 129 words.
                runs -= runs % 4
                if runs > 0:
                    for _ in range(runs):
                        bits |= run_code << np.uint64(count)
                        count += run_bits
                        u64(at)[0] = bits
                        at += count >> 3
                        bits >>= np.uint64(count & ~7)
                        count &= 7
                    i += runs * 258
                    continue
                # Not worth a run: leave these words to the pairs at once.
                stop = end
            else:
                stop = min(i + 8 - (i & 7), total - 1)
            while i + 3 < total and i < stop:
                first = pairs[halves[i >> 1]]
                second = pairs[halves[(i >> 1) + 1]]
                bits |= np.uint64(first & np.uint32(0xFFFFFF)) << np.uint64(count)
                count += np.int64(first >> np.uint32(24))
                bits |= np.uint64(second & np.uint32(0xFFFFFF)) << np.uint64(count)
                count += np.int64(second >> np.uint32(24))
                u64(at)[0] = bits
                at += count >> 3
                bits >>= np.uint64(count & ~7)
                count &= 7
                i += 4
            if i + 1 < total and i < stop:
                first = pairs[halves[i >> 1]]
                bits |= np.uint64(first & np.uint32(0xFFFFFF)) << np.uint64(count)
                count += np.int64(first >> np.uint32(24))
                u64(at)[0] = bits
                at += count >> 3
                bits >>= np.uint64(count & ~7)
                count &= 7
                i += 2
        carry = total - i
        if carry > 0:
            filtered[0] = filtered[i]
    if carry > 0:
        # The last odd byte: the pair table gives its code with that of a zero byte, which is taken off.
        zero = np.int64(pairs[0] >> np.uint32(24)) // 2
        first = pairs[np.int64(filtered[0])]
        own = np.int64(first >> np.uint32(24)) - zero
        bits |= (np.uint64(first) & ((np.uint64(1) << np.uint64(own)) - np.uint64(1))) << np.uint64(count)
        count += own
    bits |= np.uint64(parameters[7] & 0xFFFF) << np.uint64(count)
    count += parameters[7] >> 16
    u64(at)[0] = bits
    at += (count + 7) >> 3
    parameters[11] = (high << 16) | low
    return int(at - parameters[8])


@cfunc(_SIGNATURE, nopython=True, error_model="numpy")
def _to_full_range(parameters: Any) -> int:
    """Convert 8-bit planar YUV to the full-range BT.601 of JPEG, at the same chroma subsampling.

    [0] y, [1] stride, [2] width, [3] rows, [4] u, [5] stride, [6] v, [7] stride, [8] chroma width, [9] chroma
    rows,
    [10] horizontal and [11] vertical chroma shift, [12] to [14] packed outputs; [15] luma offset, [16] to
    [22] coefficients times 2^14: y from y, u, v; u from u, v; v from u, v.
    """
    width, rows = parameters[2], parameters[3]
    chroma_width, chroma_rows = parameters[8], parameters[9]
    sx, sy = parameters[10], parameters[11]
    offset = np.int32(parameters[15])
    yy, yu, yv = np.int32(parameters[16]), np.int32(parameters[17]), np.int32(parameters[18])
    uu, uv = np.int32(parameters[19]), np.int32(parameters[20])
    vu, vv = np.int32(parameters[21]), np.int32(parameters[22])
    half = np.int32(8192)
    for y in range(rows):
        source = u8(parameters[0] + y * parameters[1])
        target = u8(parameters[12] + y * width)
        if yu == 0 and yv == 0:
            for x in range(width):
                value = (yy * (np.int32(source[x]) - offset) + half) >> np.int32(14)
                target[x] = np.uint8(min(max(value, np.int32(0)), np.int32(255)))
        else:
            line = y >> sy
            u = u8(parameters[4] + line * parameters[5])
            v = u8(parameters[6] + line * parameters[7])
            if sx == 1:
                for x in range(width // 2):
                    tint = yu * (np.int32(u[x]) - np.int32(128)) + yv * (np.int32(v[x]) - np.int32(128)) + half
                    value = (yy * (np.int32(source[2 * x]) - offset) + tint) >> np.int32(14)
                    target[2 * x] = np.uint8(min(max(value, np.int32(0)), np.int32(255)))
                    value = (yy * (np.int32(source[2 * x + 1]) - offset) + tint) >> np.int32(14)
                    target[2 * x + 1] = np.uint8(min(max(value, np.int32(0)), np.int32(255)))
            for x in range((width // 2) * 2 if sx == 1 else 0, width):
                tint = yu * (np.int32(u[x >> sx]) - np.int32(128)) + yv * (np.int32(v[x >> sx]) - np.int32(128))
                value = (yy * (np.int32(source[x]) - offset) + tint + half) >> np.int32(14)
                target[x] = np.uint8(min(max(value, np.int32(0)), np.int32(255)))
    for y in range(chroma_rows):
        u = u8(parameters[4] + y * parameters[5])
        v = u8(parameters[6] + y * parameters[7])
        new_u = u8(parameters[13] + y * chroma_width)
        new_v = u8(parameters[14] + y * chroma_width)
        for x in range(chroma_width):
            a = np.int32(u[x]) - np.int32(128)
            b = np.int32(v[x]) - np.int32(128)
            value = ((uu * a + uv * b + half) >> np.int32(14)) + np.int32(128)
            new_u[x] = np.uint8(min(max(value, np.int32(0)), np.int32(255)))
            value = ((vu * a + vv * b + half) >> np.int32(14)) + np.int32(128)
            new_v[x] = np.uint8(min(max(value, np.int32(0)), np.int32(255)))
    return 0


KERNELS = {
    "measure8": _measure(_means8, _energy8, 1),
    "measure16": _measure(_means16, _energy16, 2),
    "describe": _describe_only,
    "png_histogram": _png_histogram,
    "png_deflate": _png_deflate,
    "to_full_range": _to_full_range,
}
