# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``python -m lcsync``."""

from lcsync.cli import main

raise SystemExit(main())
