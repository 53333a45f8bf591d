# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Every number once: its unit, its source, and for a bound what it keeps away."""

# --- hashes (docs/protocol.md, "Hashes") ---
HASH_BYTES = 32
PERSON_LEAF = b"lcs-leaf"
PERSON_NODE = b"lcs-node"
PERSON_ROOT = b"lcs-root"
PERSON_CHANNEL = b"lcs-chan"
PERSON_TOI = b"lcs-toi"

# --- geometry ---
BLOCK_BYTES = 16384
BLOCK_BYTES_MIN = 1 << 10
BLOCK_BYTES_MAX = 1 << 20
SEGMENT_BYTES = 1 << 20
SPLIT_NODES_MAX = 8  # source groups of one object
LEAVES_FANOUT_LEVELS = 4  # leaves groups exist at every fourth level: fan-out 16
SYMBOLS_MAX = 8192  # of one segment; bounds a receiver's bitmap to 1 KiB
OBJECT_BYTES_MAX = 1 << 44  # 16 TiB; a manifest may not claim more

# --- groups and packets ---
PORT = 4242  # UDP
SCOPES = {"link": 2, "admin": 4, "site": 5, "org": 8, "global": 14}  # RFC 7346
SCOPE = "site"
GROUP_ID_BYTES = 14  # low 112 bits of the address
TOI_BYTES = 14  # RFC 5651 allows 112 bits
HEADER_BYTES = 36  # LCT 28 and FEC payload ID 8
TAG_BYTES = 16  # kept free in every packet for an authentication tag
IP_UDP_BYTES = 48  # IPv6 40 and UDP 8
SYMBOL_ALIGN = 32
MTU = 1500
MTU_MIN = 1280  # RFC 8200 section 5
MTU_MAX = 9216
CODEPOINT = 128  # FEC Encoding ID, RFC 5445
HOPS = 1
MANIFEST_VERSION = 1
INLINE_BYTES_MAX = 900  # contents that travel in the manifest itself
CHANNELS = 8
CHANNELS_MAX = 64  # a Linux bridge gives up snooping at 4096 groups

# --- rates and times, seconds and bits per second ---
BWLIMIT_BPS = 100_000_000
BURST_S = 0.001  # a batch is never longer than this much of its group's rate
NAME_INTERVALS_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # manifest repeats after a join
KEEPALIVE_S = 1.0  # every active group gets a packet at least so often
ROUND_GAPS_S = (0.03, 0.06, 0.12, 0.25, 0.5)  # pauses between rounds of outline and leaves
SILENCE_S = (2.0, 4.0, 8.0, 16.0, 32.0)  # a silent group is left and joined again after these
TIMEOUT_S = 30.0

# --- MLD (RFC 9777 section 9) ---
ROBUSTNESS = 2
QUERY_INTERVAL_S = 125.0
QUERY_RESPONSE_S = 10.0
MALI_S = ROBUSTNESS * QUERY_INTERVAL_S + 2 * QUERY_RESPONSE_S  # 270 s
OTHER_QUERIER_S = ROBUSTNESS * QUERY_INTERVAL_S + QUERY_RESPONSE_S / 2  # 255 s
LAST_LISTENER_S = 2.0  # LLQT

# --- bounds on what peers can grow ---
ACTIVE_GROUPS_MAX = 256  # sent at once; the oldest unrefreshed goes first
HOSTS_PER_GROUP_MAX = 64  # above, hosts of the group are no longer told apart
HOST_PAIRS_MAX = 8192  # (host, group) pairs known at once
EXPECT_GROUPS_MAX = 4096  # default size of a tracker, see trackers/__init__.py
