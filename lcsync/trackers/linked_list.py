# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A doubly linked list of groups, the way the kernel keeps a socket's memberships: for a handful."""

from __future__ import annotations

from lcsync.trackers.exact import ExactTracker


class ListTracker(ExactTracker):
    """Every call walks the list, once for each group; a tick only when something is due."""

    name = "list"
    structure = "list"
    group_bytes = 48  # two pointers, the group, its deadline
