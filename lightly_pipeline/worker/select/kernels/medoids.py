"""The compiled steps of `select.medoids`: near picks, clusters, medoids, and moves that keep picks apart."""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

from typing import Any

import numpy as np

from lightly_pipeline.worker.machine_code.addresses import compiled, f32, f64, fraction, i64, kernel, root
from lightly_pipeline.worker.select.kernels.distance import squared_distance

# Above any rounding error of a distance.
_MARGIN = 1e-4
_AT_A_TIME = 16
# Members from which on a cluster has a middle, and share of the sum of distances that a move must bring: it would else
# be for nothing that the pick is no longer the sharpest, or farther from others.
_MEMBERS, _GAIN = 6, 0.01


@compiled
def _remember(nearest: Any, distances: Any, offset: int, held: int, length: int, other: int, distance: float) -> int:
    """Put one into a list by distance, behind equally far ones; how many it holds."""
    if held == length:
        if distance >= distances[offset + held - 1]:
            return held
        held -= 1
    place = offset + held
    while place > offset and distances[place - 1] > distance:
        distances[place], nearest[place] = distances[place - 1], nearest[place - 1]
        place -= 1
    distances[place], nearest[place] = distance, other
    return held + 1


@kernel
def near(block: Any) -> int:
    """The nearest other picks of each, by distance, equally far ones by number: of all pairs up to a pick.

    [0] points f32[n, d]; [1] d; [2] picks i64[k]; [3] k; [4] l, at most k - 1; [5] nearest i64[k, l], out; [6] their
    squared distances f32[k, l], out; [7] how many there are already i64[k], out; [8], [9] first pick, and the one after
    the last: those before it have been here.
    """
    points, width, picks, length = f32(block[0]), block[1], i64(block[2]), block[4]
    nearest, squared, held, begin, end = i64(block[5]), f32(block[6]), i64(block[7]), block[8], block[9]
    # Some at a time, so that a row of another is read once for all of them.
    for first in range(begin, end, _AT_A_TIME):
        last = min(first + _AT_A_TIME, end)
        for other in range(last):
            for pick in range(max(first, other + 1), last):
                d2 = squared_distance(points, picks[pick], points, picks[other], width)
                held[pick] = _remember(nearest, squared, pick * length, held[pick], length, other, d2)
                held[other] = _remember(nearest, squared, other * length, held[other], length, pick, d2)
    return 0


@kernel
def cluster(block: Any) -> int:
    """The nearest pick of some rows, of equally near ones the lowest, and how far it is.

    Returns for how many rows all picks had to be looked at.

    A pick that is twice as far from another as a row is cannot be nearer to the row than that other one: so the near
    picks of a near one are nearly all that has to be looked at.

    [0] to [6] as for `near`, but with distances; [7] a pick to begin with for each row i64[n]; [8] home i64[n], out;
    [9] cost f32[n], out; [10], [11] first row, and the one after the last.
    """
    points, width, picks, count, length = f32(block[0]), block[1], i64(block[2]), block[3], block[4]
    nearest, distances, start = i64(block[5]), f32(block[6]), i64(block[7])
    home, cost, begin, end = i64(block[8]), f32(block[9]), block[10], block[11]
    everywhere = 0
    for row in range(begin, end):
        best = start[row]
        least = root(squared_distance(points, row, points, picks[best], width))
        if row > begin:
            other = home[row - 1]
            distance = root(squared_distance(points, row, points, picks[other], width))
            if distance < least or (distance == least and other < best):
                best, least = other, distance
        searching = True
        while searching:
            searching = False
            whole = length == count - 1
            for k in range(best * length, (best + 1) * length):
                if distances[k] > (2 + _MARGIN) * least:
                    whole = True
                    break
                other = nearest[k]
                distance = root(squared_distance(points, row, points, picks[other], width))
                if distance < least or (distance == least and other < best):
                    best, least, searching = other, distance, True
                    break
            if not searching and not whole:
                everywhere += 1
                for other in range(count):
                    distance = root(squared_distance(points, row, points, picks[other], width))
                    if distance < least or (distance == least and other < best):
                        best, least = other, distance
        home[row], cost[row] = best, least
    return everywhere


@kernel
def centre(block: Any) -> int:
    """Of some picks the medoid of their clusters: the member with the least sum of distances to all of them.

    Looked for among the members nearest to the mean; they show the same shot, and no member is farther from it than a
    limit. A pick that no such member betters by much stays what it is.

    [0] points f32[n, d]; [1] d; [2] members i64[m], one cluster after the other; [3] where each begins i64[k + 1]; [4]
    picks i64[k]; [5] cost f32[n] of each row; [6] the most that it costs f32[n]: its distance to the pool; [7] shot
    i64[n]; [8] limit; [9] medoids i64[k], out; workspace: [10] f32[d], [11] f64[d], [12] i64[c], [13] f32[c]; [14] c;
    [15], [16] first pick, and the one after the last.
    """
    points, width, members, begins = f32(block[0]), block[1], i64(block[2]), i64(block[3])
    picks, cost, most, shot = i64(block[4]), f32(block[5]), f32(block[6]), i64(block[7])
    limit, medoids, mean, sums = np.float32(fraction(block[8])), i64(block[9]), f32(block[10]), f64(block[11])
    tried, away, trials, begin, end = i64(block[12]), f32(block[13]), block[14], block[15], block[16]
    for pick in range(begin, end):
        row = picks[pick]
        medoids[pick] = row
        first, last = begins[pick], begins[pick + 1]
        if last - first < _MEMBERS:
            continue
        for j in range(width):
            sums[j] = 0
        least = 0.0
        for k in range(first, last):
            least += cost[members[k]]
            for j in range(width):
                sums[j] += points[members[k] * width + j]
        for j in range(width):
            mean[j] = np.float32(sums[j] / (last - first))
        held = 0
        for k in range(first, last):
            member = members[k]
            if member != row and shot[member] == shot[row]:
                distance = squared_distance(points, member, mean, 0, width)
                held = _remember(tried, away, 0, held, trials, member, distance)
        least *= 1 - _GAIN
        for t in range(held):
            total = 0.0
            for k in range(first, last):
                member = members[k]
                distance = min(root(squared_distance(points, tried[t], points, member, width)), most[member])
                total += distance
                if distance > limit or total >= least:
                    total = np.inf
                    break
            if total < least:
                least = total
                medoids[pick] = tried[t]
    return 0


@compiled
def _is_apart(points: Any, width: int, row: int, other: int, before: float, apart: float) -> bool:
    """Whether two picks are at least as far from each other as before, or as they have to be."""
    d2 = squared_distance(points, row, points, other, width)
    return d2 > 0 and root(d2) >= min(before, apart)


@kernel
def move(block: Any) -> int:
    """Move picks to their medoids, one after the other, unless that brings two too near to each other.

    [0] to [6] as for `cluster`; [7] medoids i64[k]; [8] moved picks i64[k], in and out; [9] how far they have to be
    apart; [10] the longest way of any; [11], [12] first pick, and the one after the last.
    """
    points, width, picks, count, length = f32(block[0]), block[1], i64(block[2]), block[3], block[4]
    nearest, distances, medoids, moved = i64(block[5]), f32(block[6]), i64(block[7]), i64(block[8])
    apart, longest, begin, end = np.float32(fraction(block[9])), fraction(block[10]), block[11], block[12]
    for pick in range(begin, end):
        row = medoids[pick]
        if row == picks[pick]:
            continue
        # Two that are farther from each other than this stay far enough, wherever both go.
        reach = (apart + root(squared_distance(points, picks[pick], points, row, width)) + longest) * (1 + _MARGIN)
        free, whole = True, length == count - 1
        for k in range(pick * length, (pick + 1) * length):
            if distances[k] > reach:
                whole = True
                break
            if not _is_apart(points, width, row, moved[nearest[k]], distances[k], apart):
                free = False
                break
        if free and not whole:
            for other in range(count):
                if other != pick and not _is_apart(
                    points,
                    width,
                    row,
                    moved[other],
                    root(squared_distance(points, picks[pick], points, picks[other], width)),
                    apart,
                ):
                    free = False
                    break
        if free:
            moved[pick] = row
    return 0
