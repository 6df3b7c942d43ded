"""Moving picks to frames whose picture is kept already, so that they need no second decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

#: Kept frames before and after a pick, in display order, that are looked at.
_NEIGHBOURS = 32
#: Shares of what is chosen anew after which it is moved, and the rest chosen on top of that.
_STAGES = (0.6, 1.0)


def snap_to_kept(
    embeddings: NDArray[np.float32],
    kept: NDArray[np.bool_],
    picks: Sequence[int] | NDArray[np.int64],
    *,
    tolerance: float = np.inf,
) -> NDArray[np.int64]:
    """Move each pick to the nearest frame that is kept in scratch, if one is near enough.

    embeddings float32 [n, d], frames of a video in display order; kept bool [n]: frames with a picture in scratch
    (and allowed to be selected); picks int64 [k]: selected frames in pick order. A pick that is kept stays.
    Another moves to the nearest of the kept frames shown shortly before or after it that nobody has, if that is
    nearer than `tolerance`; otherwise it stays and `write_frames` decodes it. Returns int64 [k], all different.
    """
    result = np.array(picks, dtype=np.int64)
    order = np.flatnonzero(kept)
    taken = np.zeros(len(embeddings), dtype=np.bool_)
    taken[result] = True
    for place in np.flatnonzero(~np.asarray(kept, dtype=np.bool_)[result]):
        pick = result[place]
        at = int(np.searchsorted(order, pick))
        near = order[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
        near = near[~taken[near]]
        if not len(near):
            continue
        distances = np.linalg.norm(embeddings[near] - embeddings[pick], axis=1)
        nearest = int(np.argmin(distances))
        if distances[nearest] <= tolerance:
            result[place] = near[nearest]
            taken[near[nearest]] = True
    return result


def snap_in_stages(
    embeddings: NDArray[np.float32],
    kept: NDArray[np.bool_],
    picks: Sequence[int] | NDArray[np.int64],
    choose_more: Callable[[NDArray[np.int64], int], NDArray[np.int64]],
    *,
    settled: float,
) -> NDArray[np.int64]:
    """`snap_to_kept` of the first picks, and the others chosen anew on top of where those went.

    settled: share of the picks that are not chosen anew. choose_more(taken int64 [m], count) returns at most `count`
    further picks, none of them taken, by greedy k-center on top of the taken ones. Moving all picks at the end leaves
    holes where several moved the same way (up to 1.25 of the radius of the exact picks); in stages the later picks
    fill them. Returns as many as `picks`, all different, in the order of picking.
    """
    picks = np.asarray(picks, dtype=np.int64)
    kept = np.asarray(kept, dtype=np.bool_)
    result = snap_to_kept(embeddings, kept, picks[: max(1, int(len(picks) * settled))])
    left = len(picks) - len(result)
    for share in _STAGES:
        count = len(picks) - left + int(np.ceil(left * share)) - len(result)
        if count <= 0:
            continue
        more = choose_more(result, count)
        free = kept.copy()
        free[result] = False
        result = np.concatenate([result, snap_to_kept(embeddings, free, more)])
    if len(result) < len(picks):
        # Nothing was left that differs from what is taken: the exact picks fill up the budget.
        rest = picks[~np.isin(picks, result)]
        result = np.concatenate([result, rest[: len(picks) - len(result)]])
    return result
