"""What makes a picture file of a frame: PNG's filter and deflate, the colour of JPEG."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightly_pipeline.worker.machine_code.addresses import compiled, i64, kernel, u8, u16, u32, u64


@compiled
def _filter_row(row: int, above: int, octets: int, out: int) -> None:
    """PNG filter 2 (up): each byte less the one above it."""
    x = u8(row)
    b = u8(above)
    o = u8(out)
    for i in range(octets):
        o[i] = x[i] - b[i]


@kernel
def png_histogram(parameters: Any) -> int:
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


@kernel
def huffman_lengths(parameters: Any) -> int:
    """Lengths of a Huffman code, 0 for symbols that do not occur, none above a limit.

    Rare symbols are taken to be about as frequent as the longest code can express, and more so until it fits: this
    costs less than a thousandth of the size and, mostly, no second tree.

    [0] counts u32[n]; [1] n; [2] the limit; [3] lengths u8[n], out; [4] workspace i64[6 * n].
    """
    counts = u32(parameters[0])
    n, longest = parameters[1], parameters[2]
    lengths = u8(parameters[3])
    order = i64(parameters[4])
    weights = i64(parameters[4] + 8 * n)
    parents = i64(parameters[4] + 8 * 3 * n)
    total = 0
    for symbol in range(n):
        lengths[symbol] = 0
        total += counts[symbol]
    rare = total >> (longest - 1)
    while True:
        # The symbols by how often they occur, each moved down to its place.
        used = 0
        for symbol in range(n):
            if counts[symbol] == 0:
                continue
            place = used
            while place > 0 and weights[place - 1] > counts[symbol]:
                weights[place] = weights[place - 1]
                order[place] = order[place - 1]
                place -= 1
            weights[place] = counts[symbol]
            order[place] = symbol
            used += 1
        for place in range(used):
            weights[place] = max(weights[place], rare)
        if used == 1:
            lengths[order[0]] = 1
            return 1
        # Joined nodes come in ascending order too: the two lightest are at the heads of two queues.
        leaf, inner = 0, used
        for node in range(used, 2 * used - 1):
            weights[node] = 0
            for _ in range(2):
                if leaf < used and (inner == node or weights[leaf] <= weights[inner]):
                    child = leaf
                    leaf += 1
                else:
                    child = inner
                    inner += 1
                weights[node] += weights[child]
                parents[child] = node
        root = 2 * used - 2
        parents[root] = 0  # from here on: depths
        for node in range(root - 1, -1, -1):
            parents[node] = parents[parents[node]] + 1
        deepest = 0
        for place in range(used):
            deepest = max(deepest, parents[place])
            lengths[order[place]] = parents[place]
        if deepest <= longest:
            return int(deepest)
        rare = rare * 2 + 1


@kernel
def huffman_codes(parameters: Any) -> int:
    """Canonical codes (RFC 1951 3.2.2) with their bits in the order in which deflate sends them.

    [0] lengths u8[n], at most 15; [1] n; [2] codes u32[n], out; [3] pairs u32[65536], out, or 0: for each pair of
    bytes, low byte first, both codes, and their length in the high 8 bits; [4] workspace i64[16].
    """
    lengths = u8(parameters[0])
    n = parameters[1]
    codes = u32(parameters[2])
    following = i64(parameters[4])
    for bits in range(16):
        following[bits] = 0
    for symbol in range(n):
        if lengths[symbol] > 0:
            following[lengths[symbol]] += 1
    code, before = 0, 0
    for bits in range(1, 16):
        code = (code + before) << 1
        before = following[bits]
        following[bits] = code
    for symbol in range(n):
        code = following[lengths[symbol]]
        following[lengths[symbol]] += 1
        turned = 0
        for _ in range(lengths[symbol]):
            turned = turned << 1 | code & 1
            code >>= 1
        codes[symbol] = turned
    if parameters[3] != 0:
        for high in range(256):
            pairs = u32(parameters[3] + 1024 * high)
            for low in range(256):
                both = np.uint32(lengths[low]) + np.uint32(lengths[high])
                pairs[low] = codes[low] | codes[high] << np.uint32(lengths[low]) | both << np.uint32(24)
    return 0


@kernel
def png_deflate(parameters: Any) -> int:
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


@kernel
def to_full_range(parameters: Any) -> int:
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
