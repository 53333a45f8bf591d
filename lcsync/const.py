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

# --- repair code (docs/protocol.md, "Repair code") ---
ESIS = 1 << 32  # encoding symbol IDs have 32 bits; those from the number of source symbols on are repair symbols
REPAIR_VISIT_SYMBOLS = 32  # made of one segment at a time: to read a segment for one costs more than to make 20

# --- rates and times, seconds and bits per second ---
BWLIMIT_BPS = 100_000_000
BURST_S = 0.001  # a batch is never longer than this much of its group's rate
CATCH_UP_S = 0.002  # how late a timer may fire without a loss of rate
TURN_STREAMS = 8  # batches between two looks at the MLD sockets: some 2 ms at full speed
NAME_INTERVALS_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # manifest repeats after a join
ROUND_GAPS_S = (0.03, 0.06, 0.12, 0.25, 0.5)  # least times from the start of a round to that of the next
SILENCE_S = (2.0, 4.0, 8.0, 16.0, 32.0)  # a silent group is left and joined again after these
TIMEOUT_S = 30.0

# --- MLD (RFC 9777 section 9) ---
ROBUSTNESS = 2
QUERY_INTERVAL_S = 125.0
QUERY_RESPONSE_S = 10.0
MALI_S = ROBUSTNESS * QUERY_INTERVAL_S + 2 * QUERY_RESPONSE_S  # 270 s
OTHER_QUERIER_S = ROBUSTNESS * QUERY_INTERVAL_S + QUERY_RESPONSE_S / 2  # 255 s
LAST_LISTENER_S = 2.0  # LLQT

# --- MLD messages and the listener ---
MALI_MIN_S = 140.0  # above QI + QRI: a forged query cannot starve who answers the true querier
MALI_MAX_S = 3600.0  # a forged query cannot keep a dead host's stream for days (QQIC reaches 31,744 s)
MLD_MESSAGE_BYTES_MAX = MTU_MAX  # a report never spans packets: RFC 9777 section 5.2.15 splits it
LAST_LISTENER_QUERY_S = 1.0  # LLQI, also the maximum response delay of an address-specific query
LISTENER_BUFFER_BYTES = 1 << 20  # SO_RCVBUF asked for; 1000 joins come as 56 reports of 1510 bytes

# --- bounds on what peers can grow ---
ACTIVE_GROUPS_MAX = 256  # sent at once; the oldest unrefreshed goes first
HOSTS_PER_GROUP_MAX = 64  # above, hosts of the group are no longer told apart
HOST_PAIRS_MAX = 8192  # (host, group) pairs known at once
EXPECT_GROUPS_MAX = 4096  # default size of a tracker, see trackers/__init__.py

# --- files and names ---
NAME_BYTES_MAX = 4096  # PATH_MAX
COMPONENT_BYTES_MAX = 255  # NAME_MAX
NAME_PREFIX = "name:"  # makes any argument a network name
READ_BYTES = 4 << 20  # of one read; a whole number of blocks of any size
HASH_THREADS = 2  # each holds one buffer of READ_BYTES
COPY_BYTES = 64 << 20  # of one copy_file_range, so that an interrupt waits for no more
TOUCHED_MARKS_MAX = 1 << 20  # one byte each: bounds what a Target remembers of where it wrote
TOUCHED_BYTES_MIN = 1 << 16  # the least that one mark stands for
FICLONE = 0x40049409  # ioctl_ficlone(2); where the number differs, files are copied

# --- trackers ---
LIFETIME_S_MAX = 240_000.0  # longest MALI that RFC 9777 can say: 7 * 31744 + 2 * 8387.584 s, rounded up
TRACKER_GRANULE_S = 4.0  # one step of the Bloom timers; a power of two, so dividing by it is exact
TRACKER_BYTES_MAX = 1 << 30  # a larger tracker is refused before it is allocated
TRACKER_FP_RATE = 1e-3  # of the Bloom filter, holding the expected number of groups
CLOCK_S_MAX = 2.0**40  # 35,000 years: below, adding a lifetime to `now` loses under a millisecond
LIST_GROUPS_MAX = 8  # `auto` takes the list up to here (measured, see trackers/__init__.py)
TREE_GROUPS_MAX = 64  # and the tree up to here
SIMD_VARIABLE = "LCSYNC_SIMD"  # in the environment: the kernels to use, by name

# --- lab: hosts on one machine ---
LAB_HOSTS_MAX = 256  # a Linux bridge has at most 1023 ports
LAB_READY_S = 10.0  # 32 hosts were ready in 0.35 s
LAB_RETRY_S = 0.005

# --- sockets and buffers ---
RECEIVE_BUFFER_BYTES = 8 << 20  # asked for; 8 MiB lost nothing at 7 Gbit/s
SEND_BUFFER_BYTES = 4 << 20
SLOTS_BASE = 16  # segment buffers of a receiver, and two for each channel
NAP_US = 500  # a receiver that wakes for each packet takes in a third of one that naps
SEGMENT_CACHE = 32  # segments a share keeps in memory
MLD_BUDGET = 64  # messages of one socket handled between two sends
TICK_S = 1.0  # how often memberships, trackers and file versions are looked at
CHECK_FILE_S = 1.0  # how often shared files are looked at while a manifest is asked for
LOOK_PART = 4.0  # the pause is at least so many times what the last look took: files that change all the time
POLL_S = 0.05  # how often a receiver looks at silence and time limits
MANIFESTS_PER_WAKE = 32  # packets of a name's group read in one go: a flood must not starve the rest
PROGRESS_TERMINAL_S = 0.2  # between two looks of a person
PROGRESS_S = 10.0  # between two lines in a log
JOBS_AT_ONCE = 64  # files of a folder on their way together
LIST_BYTES_MAX = 64 << 20  # of a folder's list of entries, held in memory; some 600,000 files
OTHER_ROOTS_MAX = 16  # other contents under our name that are remembered, to be reported once each

# --- demo ---
DEMO_BYTES = 24 << 20  # some 2 s at 100 Mbit/s
DEMO_LATE_PART = 0.3  # of the file that the first receiver has when the late one starts
DEMO_STEP_S = 0.5
DEMO_TIMEOUT_S = 60.0
