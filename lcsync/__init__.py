# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""lcsync: copy files to any number of machines at once over IPv6 multicast."""

__version__ = "0.4.0"
