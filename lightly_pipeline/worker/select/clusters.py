"""The state of the pruned greedy k-center and the compiled steps on it.

Every row belongs to the cluster of its nearest centre (a pick or a pool vector). A new centre z can take a row only
from a cluster whose centre c is nearer than twice that cluster's radius, and of it only rows with
d(row, c) > d(z, c) / 2 (triangle inequality).
Which clusters to look at is found through groups of centres around a `leader`, in the manner of
a B-tree of balls; a projection to 16 principal axes gives a cheap lower bound of every distance; a tournament tree
over the clusters' farthest rows gives the next pick. Rows identical to a centre leave the lists.

All of these only decide which distances need not be computed, with margins above any rounding error. The distances
themselves are those of `distance.py`, so the picks are those of the brute force, bit for bit.

Pool vectors become centres when they are needed: `d2` of a row is an upper bound until the row is about to be picked;
then its nearest pool vector is looked up in an index (this very structure, built over the pool), and if that is nearer,
it becomes a centre and takes its whole neighbourhood along. Unrelated pools so cost one look-up per pick.
"""

# mypy: disable-error-code="no-any-return"
# The annotations tell people; the compiler infers its own types.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lightly_pipeline.worker.select.compiled import LANES, squared_distance
from lightly_pipeline.worker.select.selection import Floats

MEMBERS = 128  # centres in a group before it is split

# Slots of Clusters.tally
CLUSTERS, FREE, GROUPS, WORK, PICKS, KEEP_DEAD = range(6)
# What advance() returns
UNFINISHED, ENOUGH, TOO_NEAR, EXHAUSTED = range(4)

Ints = NDArray[np.int64]


class Clusters(NamedTuple):
    """One run: rows, centres, groups. A centre's `row` is a row of `points`, or ~r for row r of `pool`."""

    points: Floats  # [n, d]
    short: Floats  # [n, 16] on the principal axes
    pool: Floats  # [m, d]
    pool_short: Floats
    # members of all clusters, each in one region, the farthest first
    entry: Ints  # [2n] row
    entry_d2: Floats  # [2n] squared distance to its centre
    moved: Ints  # [n] scratch
    moved_d2: Floats
    looked_up: NDArray[np.uint8]  # [n] 1 when the row's pool distance is exact
    # per cluster
    row: Ints
    start: Ints
    length: Ints
    far: Ints  # farthest row, the lowest of equally far ones; -1 when empty
    far_d2: Floats  # -1 when empty
    group: Ints
    slot: Ints
    winner: Ints  # [2 * leaves] tournament tree over far_d2
    # per group
    leader: Ints  # row code
    leader_short: Floats
    size: Ints
    reach: Floats  # largest distance of a member to the leader
    widest: Floats  # upper bound of the members' radii
    member: Ints  # [g, MEMBERS] cluster
    member_distance: Floats  # to the leader
    member_radius: Floats
    member_short: Floats  # [g * MEMBERS, 16]
    # the new centre
    fresh: Floats  # [1, d]
    fresh_short: Floats  # [1, 16]
    tally: Ints
    margin: NDArray[np.float64]  # relative, absolute on squared short distances


def allocate(
    points: Floats, short: Floats, pool: Floats, pool_short: Floats, centres: int, margin: float, slack: float
) -> Clusters:
    """Empty state for at most `centres` centres."""
    n, d = points.shape
    groups = max(4, 2 * (2 * centres) // MEMBERS + 4)
    leaves = 1 << max(1, (centres - 1).bit_length())

    def ints(*shape: int) -> Ints:
        return np.zeros(shape, dtype=np.int64)

    def floats(*shape: int) -> Floats:
        return np.zeros(shape, dtype=np.float32)

    return Clusters(
        points, short, pool, pool_short,
        ints(2 * n), floats(2 * n), ints(n), floats(n), np.zeros(n, dtype=np.uint8),
        ints(centres), ints(centres), ints(centres),
        ints(centres), np.full(leaves, -1, dtype=np.float32), ints(centres), ints(centres),
        np.full(2 * leaves, -1, dtype=np.int64),
        ints(groups), floats(groups, LANES), ints(groups), floats(groups), floats(groups),
        ints(groups, MEMBERS), floats(groups, MEMBERS), floats(groups, MEMBERS), floats(groups * MEMBERS, LANES),
        floats(1, d), floats(1, LANES), ints(6), np.array([margin, slack]),
    )  # fmt: skip


_jit = njit(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_entry = njit(cache=True, nogil=True, no_cfunc_wrapper=True)


@_jit
def _better(s: Clusters, a: int, b: int) -> bool:
    """Whether cluster `a` holds the next pick rather than `b`: farther, or as far with a lower row."""
    if b < 0:
        return True
    if a < 0:
        return False
    return s.far_d2[a] > s.far_d2[b] or (s.far_d2[a] == s.far_d2[b] and s.far[a] < s.far[b])


@_jit
def _replay(s: Clusters, cluster: int) -> None:
    """Play the matches of `cluster` in the tournament again."""
    leaves = len(s.winner) // 2
    node = leaves + cluster
    s.winner[node] = cluster
    while node > 1:
        a = s.winner[node]
        b = s.winner[node ^ 1]
        node >>= 1
        s.winner[node] = a if _better(s, a, b) else b


@_jit
def _to_fresh(s: Clusters, row: int) -> float:
    """Squared distance of a centre or leader to the new centre."""
    if row >= 0:
        return squared_distance(s.points, row, s.fresh, 0)
    return squared_distance(s.pool, -row - 1, s.fresh, 0)


@_jit
def _copy(source: Floats, i: int, target: Floats, j: int) -> None:
    """Row i to row j; a slice assignment would take the compiler two seconds for its error messages."""
    for k in range(source.shape[1]):
        target[j, k] = source[i, k]


@_jit
def _set_fresh(s: Clusters, row: int) -> None:
    if row >= 0:
        _copy(s.points, row, s.fresh, 0)
        _copy(s.short, row, s.fresh_short, 0)
    else:
        _copy(s.pool, -row - 1, s.fresh, 0)
        _copy(s.pool_short, -row - 1, s.fresh_short, 0)


@_jit
def _compact(s: Clusters) -> None:
    """Close the gaps that moved rows left; regions lie in the order of their clusters."""
    free = 0
    for cluster in range(s.tally[CLUSTERS]):
        begin = s.start[cluster]
        s.start[cluster] = free
        for k in range(s.length[cluster]):
            s.entry[free] = s.entry[begin + k]
            s.entry_d2[free] = s.entry_d2[begin + k]
            free += 1
    s.tally[FREE] = free


@_jit
def _sort(s: Clusters, moved: int) -> None:
    """Farthest first, of equally far ones the lowest row first (Shell's sort; most clusters are small)."""
    gap = 1
    while gap < moved // 3:
        gap = 3 * gap + 1
    while gap >= 1:
        for i in range(gap, moved):
            row = s.moved[i]
            d2 = s.moved_d2[i]
            k = i
            while k >= gap and (s.moved_d2[k - gap] < d2 or (s.moved_d2[k - gap] == d2 and s.moved[k - gap] > row)):
                s.moved[k] = s.moved[k - gap]
                s.moved_d2[k] = s.moved_d2[k - gap]
                k -= gap
            s.moved[k] = row
            s.moved_d2[k] = d2
        gap //= 3


@_jit
def _new_cluster(s: Clusters, row: int, moved: int) -> int:
    """Make a cluster of the `moved` rows around the new centre; returns its number."""
    cluster = s.tally[CLUSTERS]
    if s.tally[FREE] + moved > len(s.entry):
        _compact(s)
    begin = s.tally[FREE]
    s.row[cluster] = row
    s.start[cluster] = begin
    s.length[cluster] = moved
    _sort(s, moved)
    for k in range(moved):
        s.entry[begin + k] = s.moved[k]
        s.entry_d2[begin + k] = s.moved_d2[k]
    s.far[cluster] = s.moved[0] if moved else -1
    s.far_d2[cluster] = s.moved_d2[0] if moved else np.float32(-1)
    s.tally[FREE] = begin + moved
    s.tally[CLUSTERS] = cluster + 1
    _replay(s, cluster)
    return cluster


@_jit
def _radius(s: Clusters, cluster: int) -> float:
    """Upper bound of the distances of the cluster's rows to its centre."""
    if s.length[cluster] == 0:
        return np.float32(0)
    return np.float32(np.sqrt(s.far_d2[cluster]) * (1 + s.margin[0]))


@_jit
def _put(s: Clusters, group: int, cluster: int, distance: float, short: Floats, at: int) -> None:
    """Add `cluster` to `group` at `distance` of its leader."""
    slot = s.size[group]
    s.member[group, slot] = cluster
    s.member_distance[group, slot] = distance
    s.member_radius[group, slot] = _radius(s, cluster)
    _copy(short, at, s.member_short, group * MEMBERS + slot)
    s.group[cluster] = group
    s.slot[cluster] = slot
    s.size[group] = slot + 1
    s.reach[group] = max(s.reach[group], distance)
    s.widest[group] = max(s.widest[group], s.member_radius[group, slot])


@_jit
def _drop(s: Clusters, group: int, slot: int) -> None:
    """Forget a centre without rows: nothing can be taken from it."""
    last = s.size[group] - 1
    s.size[group] = last
    if slot != last:
        s.member[group, slot] = s.member[group, last]
        s.member_distance[group, slot] = s.member_distance[group, last]
        s.member_radius[group, slot] = s.member_radius[group, last]
        _copy(s.member_short, group * MEMBERS + last, s.member_short, group * MEMBERS + slot)
        s.slot[s.member[group, slot]] = slot


@_jit
def _open_group(s: Clusters, row: int) -> int:
    group = s.tally[GROUPS]
    s.tally[GROUPS] = group + 1
    s.leader[group] = row
    if row >= 0:
        _copy(s.short, row, s.leader_short, group)
    else:
        _copy(s.pool_short, -row - 1, s.leader_short, group)
    return group


@_jit
def _split(s: Clusters, group: int) -> int:
    """Give the half of a full group that is nearer to its farthest member to a new group around that member."""
    size = s.size[group]
    farthest = 0
    for slot in range(size):
        if s.member_distance[group, slot] > s.member_distance[group, farthest]:
            farthest = slot
    row = s.row[s.member[group, farthest]]
    other = _open_group(s, row)
    distance = np.empty(size, dtype=np.float32)
    gain = np.empty(size, dtype=np.float32)
    for slot in range(size):
        code = s.row[s.member[group, slot]]
        if code >= 0 and row >= 0:
            d2 = squared_distance(s.points, code, s.points, row)
        elif code >= 0:
            d2 = squared_distance(s.points, code, s.pool, -row - 1)
        elif row >= 0:
            d2 = squared_distance(s.pool, -code - 1, s.points, row)
        else:
            d2 = squared_distance(s.pool, -code - 1, s.pool, -row - 1)
        distance[slot] = np.sqrt(d2)
        gain[slot] = s.member_distance[group, slot] - distance[slot]
    goes = np.zeros(size, dtype=np.uint8)
    for slot in range(size):
        rank = 0
        for rival in range(size):
            rank += gain[rival] > gain[slot] or (gain[rival] == gain[slot] and rival < slot)
        if rank < size // 2:
            goes[slot] = 1
            _put(s, other, s.member[group, slot], distance[slot], s.member_short, group * MEMBERS + slot)
    kept = 0
    s.reach[group] = 0
    s.widest[group] = 0
    for slot in range(size):
        if goes[slot] == 0:
            s.size[group] = kept
            _put(
                s, group, s.member[group, slot], s.member_distance[group, slot], s.member_short, group * MEMBERS + slot
            )
            kept += 1
    s.size[group] = kept
    return other


@_jit
def _take(s: Clusters, cluster: int, d2_centre: float, moved: int) -> int:
    """Move the rows of `cluster` nearer to the new centre, `d2_centre` away, to the scratch; how many."""
    begin = s.start[cluster]
    end = begin + s.length[cluster]
    slack = s.margin[1]
    limit = np.float32(d2_centre * (1 - 4 * s.margin[0]) / 4)
    gone = 0
    k = begin
    # Farthest rows come first: after the first that is near enough to its centre, all are.
    while k < end and s.entry_d2[k] > limit:
        row = s.entry[k]
        d2 = s.entry_d2[k]
        if squared_distance(s.short, row, s.fresh_short, 0) <= 1.01 * d2 + slack:
            s.tally[WORK] += 4
            nearer = squared_distance(s.points, row, s.fresh, 0)
            if nearer < d2:
                s.entry[k] = -1
                gone += 1
                if nearer > 0:
                    s.moved[moved] = row
                    s.moved_d2[moved] = nearer
                    moved += 1
        k += 1
    s.tally[WORK] += 2 * (k - begin)
    if gone:
        # The rows that stay move up to those behind them, so that only what was looked at is written.
        free = k - 1
        for old in range(k - 1, begin - 1, -1):
            if s.entry[old] >= 0:
                s.entry[free] = s.entry[old]
                s.entry_d2[free] = s.entry_d2[old]
                free -= 1
        begin += gone
        s.start[cluster] = begin
        s.length[cluster] = end - begin
        s.far[cluster] = s.entry[begin] if begin < end else -1
        s.far_d2[cluster] = s.entry_d2[begin] if begin < end else np.float32(-1)
        _replay(s, cluster)
    return moved


@_entry
def adopt(s: Clusters, codes: Ints, order: Ints, begins: Ints, d2: Floats) -> None:
    """Take over the centres `codes`; rows order[begins[c]] … order[begins[c + 1] - 1] are nearest to c, at `d2`."""
    for centre in range(len(codes)):
        _set_fresh(s, codes[centre])
        moved = 0
        for k in range(begins[centre], begins[centre + 1]):
            row = order[k]
            if d2[row] > 0:
                s.moved[moved] = row
                s.moved_d2[moved] = d2[row]
                moved += 1
        cluster = _new_cluster(s, codes[centre], moved)
        if moved == 0 and s.tally[KEEP_DEAD] == 0 and centre > 0:
            continue
        best = np.float32(0)
        best_group = -1
        for group in range(s.tally[GROUPS]):
            if best_group >= 0 and (
                squared_distance(s.leader_short, group, s.fresh_short, 0) > 1.01 * best * best + s.margin[1]
            ):
                continue
            distance = np.sqrt(_to_fresh(s, s.leader[group]))
            if best_group < 0 or distance < best:
                best = distance
                best_group = group
        if best_group < 0:
            best_group = _open_group(s, codes[centre])
        elif s.size[best_group] == MEMBERS:
            other = _split(s, best_group)
            distance = np.sqrt(_to_fresh(s, s.leader[other]))
            if distance < best:
                best = distance
                best_group = other
        _put(s, best_group, cluster, best, s.fresh_short, 0)


@_jit
def add_centre(s: Clusters, row: int, home: int) -> None:
    """Make a centre and give it the rows that are nearest to it; `home` is a group likely to be near."""
    _set_fresh(s, row)
    relative = s.margin[0]
    slack = s.margin[1]
    moved = 0
    best = np.float32(np.inf)
    best_group = -1
    groups = s.tally[GROUPS]
    for turn in range(-1, groups):
        group = home if turn < 0 else turn
        if turn == home:
            continue
        s.tally[WORK] += 1
        radius = 2 * s.widest[group] * (1 + 2 * relative)
        bound = max(s.reach[group] + radius, best)
        if squared_distance(s.leader_short, group, s.fresh_short, 0) > 1.01 * bound * bound + slack:
            continue
        s.tally[WORK] += 4
        to_leader = np.sqrt(_to_fresh(s, s.leader[group]))
        if to_leader < best:
            best = to_leader
            best_group = group
        if to_leader * (1 - relative) - s.reach[group] * (1 + relative) >= radius:
            continue
        widest = np.float32(0)
        slot = 0
        s.tally[WORK] += s.size[group] // 8
        while slot < s.size[group]:
            reach = 2 * s.member_radius[group, slot] * (1 + 2 * relative)
            distance = s.member_distance[group, slot]
            if abs(to_leader - distance) < reach + relative * (to_leader + distance):
                s.tally[WORK] += 1
                bound2 = squared_distance(s.member_short, group * MEMBERS + slot, s.fresh_short, 0)
                if bound2 <= 1.01 * reach * reach + slack:
                    s.tally[WORK] += 4
                    cluster = s.member[group, slot]
                    d2 = _to_fresh(s, s.row[cluster])
                    if d2 < reach * reach:
                        moved = _take(s, cluster, d2, moved)
                        s.member_radius[group, slot] = _radius(s, cluster)
                        if s.length[cluster] == 0 and s.tally[KEEP_DEAD] == 0:
                            _drop(s, group, slot)
                            continue
            widest = max(widest, s.member_radius[group, slot])
            slot += 1
        s.widest[group] = widest
    cluster = _new_cluster(s, row, moved)
    if moved == 0 and s.tally[KEEP_DEAD] == 0:
        return
    if s.size[best_group] == MEMBERS:
        other = _split(s, best_group)
        to_other = np.sqrt(_to_fresh(s, s.leader[other]))
        if to_other < best:
            best = to_other
            best_group = other
    _put(s, best_group, cluster, best, s.fresh_short, 0)


@_jit
def _nearest_in_group(
    index: Clusters, group: int, to_leader: float, points: Floats, short: Floats, row: int, best2: float, best: int
) -> tuple[float, int]:
    """The row of the index's points in one group that is nearer than `best2` to `points[row]`, with that distance."""
    relative = index.margin[0]
    slack = index.margin[1]
    near = np.sqrt(best2)
    work = 0
    for slot in range(index.size[group]):
        radius = index.member_radius[group, slot]
        distance = index.member_distance[group, slot]
        reach = radius + near
        work += 1
        if abs(to_leader - distance) >= reach * (1 + relative) + relative * (to_leader + distance):
            continue
        if squared_distance(index.member_short, group * MEMBERS + slot, short, row) > 1.01 * reach * reach + slack:
            continue
        cluster = index.member[group, slot]
        work += 4
        d2 = squared_distance(index.points, index.row[cluster], points, row)
        if d2 < best2:
            best2 = d2
            best = index.row[cluster]
            near = np.sqrt(best2)
        to_centre = np.sqrt(d2)
        if to_centre * (1 - relative) - radius >= near * (1 + relative):
            continue
        begin = index.start[cluster]
        for k in range(begin, begin + index.length[cluster]):
            apart = np.sqrt(index.entry_d2[k])
            work += 1
            if abs(to_centre - apart) >= near * (1 + relative) + relative * (to_centre + apart):
                continue
            other = index.entry[k]
            if squared_distance(index.short, other, short, row) > 1.01 * best2 + slack:
                continue
            work += 4
            d2 = squared_distance(index.points, other, points, row)
            if d2 < best2:
                best2 = d2
                best = other
                near = np.sqrt(best2)
    index.tally[WORK] += work
    return best2, best


@_entry
def nearest(
    index: Clusters, to_leader: Floats, points: Floats, short: Floats, row: int, limit2: float
) -> tuple[int, float]:
    """(index row nearest to `points[row]`, squared distance), or (-1, limit2) when none is nearer than `limit2`.

    `to_leader` is scratch, one float32 per group of the index.
    """
    relative = index.margin[0]
    slack = index.margin[1]
    best2 = limit2
    best = -1
    groups = index.tally[GROUPS]
    closest = -1
    for group in range(groups):
        bound = index.reach[group] + index.widest[group] + np.sqrt(best2)
        to_leader[group] = np.inf
        if squared_distance(index.leader_short, group, short, row) <= 1.01 * bound * bound + slack:
            to_leader[group] = np.sqrt(squared_distance(index.points, index.leader[group], points, row))
            if closest < 0 or to_leader[group] < to_leader[closest]:
                closest = group
    index.tally[WORK] += 2 * groups
    if closest >= 0:
        best2, best = _nearest_in_group(index, closest, to_leader[closest], points, short, row, best2, best)
    for group in range(groups):
        bound = (index.reach[group] + index.widest[group] + np.sqrt(best2)) * (1 + 2 * relative)
        if group != closest and to_leader[group] * (1 - relative) < bound:
            best2, best = _nearest_in_group(index, group, to_leader[group], points, short, row, best2, best)
    return best, best2


@_entry
def advance(
    s: Clusters,
    index: Clusters,
    to_leader: Floats,
    picks: Ints,
    squared: Floats,
    budget: int,
    min_distance: float,
    effort: int,
) -> int:
    """Pick until `budget`, or `effort` units of work are done (about 5 ns each); returns one of the codes above.

    `index` is the pool's, or `s` itself without a pool.
    """
    with_pool = len(s.pool) > 0
    limit = s.tally[WORK] + index.tally[WORK] + effort
    while s.tally[PICKS] < budget:
        if s.tally[WORK] + (index.tally[WORK] if with_pool else 0) > limit:
            return UNFINISHED
        cluster = s.winner[1]
        d2 = s.far_d2[cluster]
        if d2 <= 0:
            return EXHAUSTED
        if np.sqrt(d2) < min_distance:
            return TOO_NEAR
        row = s.far[cluster]
        home = s.group[cluster]
        if with_pool and s.looked_up[row] == 0:
            s.looked_up[row] = 1
            known, _ = nearest(index, to_leader, s.points, s.short, row, d2)
            if known >= 0:
                add_centre(s, -known - 1, home)
                continue
        picks[s.tally[PICKS]] = row
        squared[s.tally[PICKS]] = d2
        s.tally[PICKS] += 1
        add_centre(s, row, home)
    return ENOUGH
