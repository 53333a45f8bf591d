# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A file's pieces worked on in a few threads, the results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from lcsync.const import READ_THREADS_MAX

Result = TypeVar("Result")
THREADS = min(READ_THREADS_MAX, len(os.sched_getaffinity(0)))


def in_order(
    work: Callable[[range], Result], length: int, piece_bytes: int, then: Callable[[range, Result], object]
) -> None:
    """``work(piece)`` in a few threads for each piece of ``length`` bytes, and ``then(piece, result)`` here, in order.

    An empty file has one empty piece. Few pieces are under way at any time. The first error ends it all, and is raised
    when no thread is left.
    """
    pieces = (range(at, min(at + piece_bytes, length)) for at in range(0, max(length, 1), piece_bytes))
    if length <= piece_bytes:  # threads would cost more than they save
        for piece in pieces:
            then(piece, work(piece))
        return
    pending: deque[tuple[range, Future[Result]]] = deque()

    def take() -> None:
        done, future = pending.popleft()
        then(done, future.result())

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for piece in pieces:
            pending.append((piece, pool.submit(work, piece)))
            if len(pending) > 2 * THREADS:
                take()
        while pending:
            take()
