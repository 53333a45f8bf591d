# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A B+-tree: sorted, O(log n), a few cache lines a call."""

from __future__ import annotations

from lcsync.trackers.exact import ExactTracker


class TreeTracker(ExactTracker):
    """A call is a search in each level, and at most a move inside a node or two; a tick visits what is due.

    Its worst case is also O(log n), whatever the groups are: it needs no secret.
    """

    name = "tree"
    structure = "tree"
    group_bytes = 40  # 24 in a node of 584 bytes that is 70 % full after random joins
