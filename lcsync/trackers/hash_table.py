# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A hash table with a timer wheel: exact, and what the Bloom filter has to beat."""

from __future__ import annotations

from lcsync.trackers.exact import ExactTracker


class HashTracker(ExactTracker):
    """A call is a slot and an entry, two cache misses; a tick visits the bucket of 4 s that is due.

    Its memory doubles where a power of two is crossed, and stays.
    """

    name = "hash"
    structure = "hash"
    group_bytes = 64  # at most: an entry of 32 and two to four slots of 8
