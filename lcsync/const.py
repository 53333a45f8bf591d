# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Every number once: its unit, its source, and for a bound what it keeps away."""

# --- hashes (docs/protocol.md, "Hashes") ---
HASH_BYTES = 32
PERSON_LEAF = b"lcs-leaf"
PERSON_NODE = b"lcs-node"
PERSON_ROOT = b"lcs-root"
PERSON_CHANNEL = b"lcs-chan"
PERSON_TOI = b"lcs-toi"
PERSON_INDEX = b"lcs-indx"  # on disk, never on the wire
PERSON_PACK = b"lcs-pack"
PERSON_KEY = b"lcs-key"
PERSON_AEAD = b"lcs-aead"
PERSON_NONCE = b"lcs-nonc"

# --- geometry ---
BLOCK_BYTES = 16384
BLOCK_BYTES_MIN = 1 << 10
BLOCK_BYTES_MAX = 1 << 20
SEGMENT_BYTES = 1 << 20
SPLIT_NODES_MAX = 8  # source groups of one object
FANOUT_LEVELS = 4  # between two levels that have leaves and repair groups: fan-out 16
SYMBOLS_MAX = 8192  # of one segment; bounds a receiver's bitmap to 1 KiB
SEGMENTS_AT_ONCE = 1 << 14  # hashed up from their leaves: 32 MiB of those, in blocks of 16 KiB
ROWS_AT_ONCE = 1 << 14  # hashes compared in one go: two times 512 KiB stay in a core's cache
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
MTIME_NS_MAX = (1 << 63) - 1  # of a file, in a manifest and a folder's list
CHANNELS = 8
CHANNELS_MAX = 64  # a Linux bridge gives up snooping at 4096 groups

# --- keys (docs/protocol.md, "Keys") ---
KEY_FILE_BYTES = 128  # random; as many as lcsync 0.3.2's key files have
KEY_BYTES = 32
PASSWORD_VARIABLE = "LCSYNC_PASSWORD"  # of the environment: the password itself
PASSWORD_SALT = b"lcsync password 1"  # the same everywhere: all that hosts have in common is the password
SCRYPT_COST = 1 << 17  # N of RFC 7914, with r = 8: 128 MiB and some 0.4 s for each guess
SCRYPT_BLOCK = 8
KEYED_RUNS_MAX = 256  # of groups, whose keys and packet numbers are kept: 1 KiB each, the longest unheard goes first
RUNS = 1 << 48  # a run's number (TSI) has 48 bits
RUN_STEP = 1 << 24  # from one to the next of one process: above any number of an interface
RUN_PACKETS_MAX = 1 << 31  # of a group: then the run gets another number, before packet numbers seem to go back

PUBLIC_KEY_BYTES = 32  # Ed25519, RFC 8032
SIGNATURE_BYTES = PUBLIC_KEY_BYTES + 64  # in a manifest: who signed it, and the signature
PUBLIC_PREFIX = "ed25519:"  # of a public key as text
CONTENT_PREFIX = "b2s:"  # of a root in the place of a name
TRUSTED_MAX = 1024  # public keys in the files of --trust
KEY_TEXT_BYTES_MAX = 1 << 17  # of such a file, and of one with a signing key
SIGNED_MAX = 1 << 10  # manifests that a share keeps signed: 2 MiB
ACCEPTED_MAX = 1 << 16  # names of which the last serial is kept; the longest unused go first

# --- repair code (docs/protocol.md, "Repair code") ---
ESIS = 1 << 32  # encoding symbol IDs have 32 bits; those from the number of source symbols on are repair symbols
REPAIR_MADE_SYMBOLS = 96  # of one segment at a time: to read and hash it costs as much as to make them
REPAIR_MADE_SYMBOLS_LOW = 32  # where many segments take turns
REPAIR_VISIT_SYMBOLS = 16  # sent of one segment before the next one's turn: half of them are too many at the end
REPAIR_AHEAD_BYTES = 32 << 20  # of symbols that are made and not yet sent: of 128 segments at first, then of 760 in all
REPAIR_ROWS_SPARE = 2  # symbols beyond those that lack that a receiver reckons with; 1.6 on average

# --- rates and times, seconds and bits per second ---
BWLIMIT_BPS = 100_000_000
BURST_S = 0.001  # a batch is no longer than this much of its group's rate,
BURST_PACKETS = 16  # or than that of the limit, up to so many: no queue of a switch is that short
FIRST_PACKETS = 64  # of a stream that was silent: ahead of those that go on, so it must not take long
FIRST_S = 0.05  # or as many as the limit takes so long for
FIRST_PART = 0.5  # of the limit, for all such streams together
SILENT_S = 0.05  # since its last packet: by leaving and joining, nobody gets ahead more often
CATCH_UP_S = 0.004  # how late a timer may fire without a loss of rate
NAP_S = 0.002  # a share that waits sleeps the last of it: it hears a join so much later, and its packets are on time
TURN_STREAMS = 8  # batches between two looks at the MLD sockets,
TURN_PACKETS = 4096  # or fewer, if they are long: four segments take 5 ms at 7 Gbit/s,
TURN_S = 0.01  # and only one is sent if the last turn took longer: a leave is to be heard soon
NAME_INTERVALS_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # manifest repeats after a join
REST_S = 0.03  # after a source round: a leave takes 8 to 25 ms to arrive
ROUND_S = 0.5  # a second round takes at least so long: for a host that died the stream of a short file goes on
SLOW_START_S = 0.05  # in which a slow start doubles the rate: what is sent in vain stays a third of what was sent
SLOW_START_SOURCE_S = 0.25  # and that of source symbols, which nobody wants twice: on a busy host a leave takes longer
SLOW_START_SYMBOLS = 500  # a second, to begin with
SLOW_START_PART = 0.5  # or so many times the symbols of the group: 1 % of them in the time of a leave
SPARE_SYMBOLS = 4  # repair symbols that a round of hashes ends with: one restores a lost one every other time
SPARE_DIVISOR = 8  # and one more for so many of the round
SOON_SYMBOLS = 16  # after the rest, so many and one for each of the round come at the first rate of a slow start
SILENCE_S = (2.0, 4.0, 8.0, 16.0, 32.0)  # a silent group is left and joined again after these
PLAN_S = 1.0  # a receiver looks so often whether other groups would cost less now; at once when anything changed
CROWDED_PACKETS = 256  # of a source group, between two looks at what comes twice
CROWDED_PART = 0.4  # of them useless, when several hosts send: then repair symbols do more
ALONE_S = 2.0  # a sender that was picked out, and brings nothing for so long, gives way to the next
TIMEOUT_S = 30.0

# --- rate: how many groups a receiver is in ---
RATE_LOSS = 0.10  # of the packets of both halves of a second: some of the groups are left
RATE_ADD_LOSS = 0.02  # if it rises by more with a group that was added, that one is left again
RATE_CLEAN_LOSS = 0.01  # below, a rate suits
RATE_DOUBT_LOSS = 0.45  # above, a path's own loss is not believed so fast (bad Wi-Fi: 0.4), and half of them are left
RATE_SHORT_S = 30.0  # who has all by then makes no trial with a loss below that: it costs up to 4 s
RATE_LOOK_S = 0.25  # between two looks at what was lost
RATE_HALF_S = 0.5
RATE_PACKETS_MIN = 100  # of half a second, else it lasts longer: at 1 Mbit/s 8 groups carry 86 a second
RATE_NOISE_HALVES = 4  # over which the noise of the loss is averaged
RATE_NOISE_MAX = 0.3  # a part lost above this is no noise
RATE_JOIN_SETTLE_S = 0.3  # a join takes 10 to 25 ms
RATE_LEAVE_SETTLE_S = 2.3  # a leave takes 10 ms, or LAST_LISTENER_S and the query's way to snooping bridges: 2.2 s
RATE_WAIT_S = 10.0  # from a change to one more group
RATE_HOLD_S = 40.0  # from a trial that showed nothing to the next: each costs up to 4 s, of the groups that it leaves
RATE_WAIT_MAX_S = 320.0  # each failure doubles the wait, up to this
RATE_STRETCH = 0.5  # and is longer by up to this part, at random: receivers behind one port see each other's trials
RATE_PAUSE_S = 2.0  # who was not asked for so long was stopped himself

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
LISTENER_BUFFER_BYTES = 4 << 20  # asked for; 1000 joins come as 56 reports of 1510 bytes
HEAR_S = 0.002  # reports are handled for so long between two sends
QUERIES_AT_ONCE = 16  # sent between two sends of data: some 0.5 ms
REFRESH_S = 60.0  # between queries for our own groups while no querier is heard
DOUBT_S = 4.0  # who is asked after a loss of reports has so long to say that he listens
REJOIN_LEAST_S, REJOIN_S = 1.5, 3.0  # after a leave: who is back then may never have left, SILENCE_S being 2 s
RETURNS_MAX = 32  # sooner, in a row: that many are no receiver's doing
DOUBTED_S = 60.0  # whose leaves of that group are not believed at once for so long
ROBUSTNESS_MAX = 7  # the most that a querier can tell hosts: so often they say each leave
IDLE_LEAVES = 64  # of groups that a host is not in, beyond ROBUSTNESS_MAX times its others: more are not its own
DOUBTED_MAX = 8192  # of such, or of groups that ended by a host's leave, remembered at once: of 8 groups of 1000 hosts
HEAL_S = 10.0  # a flood that overflows the listener makes us ask no more often than this
STARTUP_NAMES = 16  # a share that starts asks who waits for its names, so many at most,
STARTUP_RESPONSE_S = 0.2  # and has answers spread over so long: 1000 hosts, some 5000 reports a second

# --- the router role: MRD (RFC 4286 section 7) and querier (RFC 9777 section 9) ---
ADVERTISEMENT_S = 20.0
ADVERTISEMENT_JITTER = 0.025  # of the interval
INITIAL_ADVERTISEMENTS = 3
INITIAL_ADVERTISEMENT_S = 2.0
SOLICITED_S = 2.0  # an answer to a solicitation is delayed by up to so much
OWN_QUERY_INTERVAL_S = 30.0  # with --querier: a receiver that lost power is served 2 * 30 + 2 * 10 = 80 s more
OTHER_QUERIER_MAX_S = MALI_MAX_S  # a forged query cannot silence the querier for days

# --- bounds on what peers can grow ---
ACTIVE_GROUPS_MAX = 256  # sent at once; the oldest unrefreshed goes first
HOSTS_PER_GROUP_MAX = 64  # above, hosts of the group are no longer told apart
HOST_PAIRS_MAX = 8192  # (host, group) pairs known at once
HOSTS_COUNTED_MAX = 1 << 16  # addresses, while --min-receivers are waited for
HOST_GROUPS_MAX = 128  # active groups that one host's reports started: no one takes them all
EXPECT_GROUPS_MAX = 4096  # default size of a tracker, see trackers/__init__.py

# --- packs: whole folders (docs/protocol.md, "Packs") ---
SHARED_BLOCKS_MEAN = 4  # small files share so many blocks before one is closed: an insertion changes that many
RUNS_KEPT = 256  # segments of which a share knows where their padding is; 20 us to find out
PATH_HASH_FACTOR = 0x9E3779B1  # 2^32 divided by the golden ratio, odd: spreads the CRC-32 of similar paths
LIST_VERSION = 1
LIST_BLOCK_BYTES = 4096  # of an entry list, whatever --blocksz is: a changed entry costs a few of these
LIST_BYTES_MAX = 64 << 20  # of a folder's list of entries, held in memory; some two million
ENTRIES_MAX = 1 << 21
CHUNK_ENTRIES_MEAN = 512  # some 15 KiB: padding costs an eighth of the list, a changed entry 15 KiB
CHUNK_ENTRIES_MAX = 4096  # what a chunk may claim before it is looked at
PATHS_BYTES_MAX = 256 << 20  # of all paths written out: front coding lets 6 bytes claim 4096
XATTR_NAME_BYTES_MAX = 255  # XATTR_NAME_MAX
XATTR_BYTES_MAX = 65536  # XATTR_SIZE_MAX
XATTRS_MAX = 1 << 20  # of all entries of a folder: 9 bytes each on the wire, some 300 in memory

# --- files and names ---
NAME_BYTES_MAX = 4096  # PATH_MAX
COMPONENT_BYTES_MAX = 255  # NAME_MAX
NAME_PREFIX = "name:"  # makes any argument a network name
READ_BYTES = 4 << 20  # a thread takes on so much of a file at a time; a whole number of blocks of any size
STEP_BYTES = 256 << 10  # of one read: stays in a core's cache until it is hashed or compared (1.2 times faster)
LANES_MAX = 16  # blocks that the widest kernel hashes at once
READ_THREADS_MAX = 4  # for one file; more wait for memory
COPY_BYTES = 64 << 20  # of one copy_file_range, so that an interrupt waits for no more
TOUCHED_MARKS_MAX = 1 << 20  # one byte each: bounds what a Target remembers of where it wrote
TOUCHED_BYTES_MIN = 1 << 16  # the least that one mark stands for
PAGE_BYTES = 4096  # the least hole that file systems make
FALLOC_PUNCH_HOLE = 3  # with FALLOC_FL_KEEP_SIZE; fallocate(2)
FICLONE = 0x40049409  # ioctl_ficlone(2); where the number differs, files are copied

PARTS_OPEN_MAX = 64  # unfinished files open at once; others are closed, and opened again to go on
BATCH_FILES = 2048  # put in their places together, after one syncfs: that took 5 to 50 ms
BATCH_BYTES = 256 << 20
SEARCH_FACTOR = 4  # files that stand for nothing are searched up to so many times the bytes that lack
FOLDERS_OPEN_MAX = 64  # descriptors of folders; a system gives a process 1024 unless told

# --- index on disk ---
INDEX_APPLICATION_ID = 0x6C637379  # "lcsy", in the header of the SQLite file
INDEX_VERSION = 2
INDEX_BYTES_MAX = 4 << 30  # trees of 2 TiB in blocks of 16 KiB; the longest unused go first
INDEX_CACHE_KIB = 32 << 10  # of pages in memory: rows of some 200,000 small files
INDEX_BUSY_S = 2.0  # wait for another process's transaction
INDEX_FLUSH_S = 5.0  # what is hashed goes to disk at least so often
INDEX_FLUSH_ROWS = 1000
INDEX_GET_ROWS = 500  # asked for in one statement: SQLite may be built to take no more than 999 parameters
LEAVES_SHORT_BYTES = 64 << 10  # leaves that stand in the file's own row
LEAVES_ROW_BYTES = 4 << 20  # of one row: 2 GiB of leaves would be more than SQLite takes in one
CLOCK_STEP_NS = 50_000_000  # timestamps are of the kernel's last tick, at most 10 ms ago
CLOCK_COARSE_NS = 2_000_000_000  # file systems that keep whole seconds (FAT: two)

# --- trackers ---
LIFETIME_S_MAX = 8_000.0  # above the longest that membership gives; what stamps of 12 bits can tell from the past
TRACKER_GRANULE_S = 4.0  # one step of the Bloom timers; a power of two, so dividing by it is exact
TRACKER_BYTES_MAX = 1 << 30  # a larger tracker is refused before it is allocated
TRACKER_MEMORY_PART = 2  # and one above this part of the machine's memory: a half
TRACKER_FP_RATE = 1e-3  # of the Bloom filter, holding the expected number of groups
CLOCK_S_MAX = 2.0**40  # 35,000 years: below, adding a lifetime to `now` loses under a millisecond
OUTGROWN_FACTOR = 2  # a tracker that holds more than it is for gives way to one for so many times what is there
SIMD_VARIABLE = "LCSYNC_SIMD"  # in the environment: the kernels to use, by name

# --- tune ---
TUNE_GROUPS_MAX = 10_000_000
TUNE_LIST_GROUPS_MAX = 1000  # the list is measured up to here: a bulk call takes the square of it
TUNE_S = 30.0  # of measuring; making and joining the millions takes some 20 s more
TUNE_FULL_S = 400.0
TUNE_TRIAL_S = 2.0  # at most, for one tracker with one number of groups
TUNE_NEAR = 1.25  # an exact tracker is recommended up to so many times the least cost
THRESHOLDS_BYTES_MAX = 1 << 16  # of the file that `lcsync tune --save` writes

# --- lab: hosts on one machine ---
LAB_HOSTS_MAX = 256  # a Linux bridge has at most 1023 ports
LAB_READY_S = 10.0  # 32 hosts were ready in 0.35 s
LAB_RETRY_S = 0.005

# --- sockets and buffers ---
RECEIVE_BUFFER_BYTES = 8 << 20  # asked for; 8 MiB lost nothing at 7 Gbit/s
SEND_BUFFER_BYTES = 512 << 10  # the kernel doubles it: 8 ms at 1 Gbit/s; of what waits longer fq_codel drops
MEMORY_BYTES = 256 << 20  # of a receiver, for segments and repair symbols on their way
HASHES_SEGMENT_BYTES = 512  # of a receiver's memory for each segment of an object: hashes, and what lacks
MEMORY_BYTES_MIN = 64 << 20  # or the number of channels would hang on it
MEMORY_BYTES_MAX = 64 << 30
SEND_TIMEOUT_S = 1  # to wait for room in it: an interface that takes nothing must not stop the others for good
SEND_FAILED_S = 0.1  # before a stream is tried again whose packets could not be sent
WELL_S = 10.0  # without a trouble, before it is said again
ROWS_MAX = 1 << 26  # repair symbols at once: their numbers are 32 bits
SLOTS_BASE = 16  # segment buffers of a receiver, and two for each channel
NAP_US = 500  # a receiver that wakes for each packet takes in a third of one that naps
SEGMENT_CACHE_BYTES = 32 << 20  # of segments a share keeps in memory
SEGMENT_FILES = 64  # that a share keeps open to read from
ADOPTED_MAX = 2 * ACTIVE_GROUPS_MAX  # files of packs that have groups, because they were asked for by name
PACKS_OPEN = 4  # folders that it keeps open, each with FOLDERS_OPEN_MAX of those in it
CHANGES_S = 0.2  # between two looks at the interfaces: a flood of router advertisements is a flood of changes
CHANGES_AT_ONCE = 64  # messages of the kernel on them that are read in one go
TICK_S = 1.0  # how often memberships, trackers and file versions are looked at
CHECK_FILE_S = 1.0  # how often shared files are looked at while a manifest is asked for
LOOK_PART = 4.0  # the pause is at least so many times what the last look took: files that change all the time
FRESH_S = 0.02  # a look at a folder is so long good for its manifest,
FRESH_PART = 2.0  # or so many times what it took: joins without end cost a third of a core,
LOOK_WAIT_S = 0.1  # if it takes no longer: some 10,000 files; of larger folders the last look is good
LOOK_ENTRY_S = 10e-6  # of a look: 8 us, and a little for the machine
MANIFEST_RETRY_S = 0.01  # while there is none: a look at a small folder takes no longer;
MANIFEST_RETRY_MAX_S = 0.1  # doubled up to this, for what changed may take long to be read
EVENTS_AT_ONCE = 8  # segments taken between two looks at the groups
RUNS_MAX = 16  # pieces of a solved segment that are written one by one; above, all of it is
POLL_S = 0.05  # how often a receiver looks at silence and time limits
MANIFESTS_PER_WAKE = 32  # packets of a name's group read in one go: a flood must not starve the rest
STOP_S = 3.0  # a second Ctrl-C so soon after the first does not break off the cleaning up
PROGRESS_TERMINAL_S = 0.25  # between two pictures for a person, at least
PROGRESS_PART = 0.005  # of the time may go into drawing pictures
PROGRESS_DRAWING_S = 0.02  # no picture is taken to need more: the first one is slow
PROGRESS_LOOK_S = 1.0  # between two looks at the pace, for lines in a log
PROGRESS_S = 10.0  # between two lines in a log
PROGRESS_SHARE_S = 60.0  # the same of a share, which may run for months
PROGRESS_JSON_S = 1.0  # between two pictures for a program
PROGRESS_FILES = 4  # of those on their way that a person is shown
SCREEN = (80, 24)  # columns and lines, where the terminal does not tell
NAME_COLUMNS = 26  # of a name in a picture, at most
BAR_COLUMNS = 24  # of a bar, at most
NEAR_RATIO = 0.7  # how alike two words are (difflib) of which one may have been meant by the other
HEARD_NAMES_MAX = 200  # names that are kept for completion
HEARD_BYTES_MAX = 1 << 16  # of the file of them: more is not read
PACE_S = 8.0  # a rate is an average over so long: it should neither jump nor lag behind
WAITING_S = 1.0  # without an answer before that is shown
FLUSH_S = 2.0  # files of a folder that are whole are put in their places at least so often
LEAVES_FACTOR = 4  # block hashes of a folder may take so many times the memory that a receiver is given
OTHER_ROOTS_MAX = 16  # other contents under our name that are remembered, to be reported once each

# --- least privilege (docs/security.md) ---
SPARE_LISTENERS = 8  # opened for interfaces that come when the privilege to open one is given up
WATCHDOG_PART = 0.5  # of the service manager's patience: sd_watchdog_enabled(3) advises a half

# --- talk ---
TALK_LINES = 8  # at once, of what others on the link can cause,
TALK_S = 10.0  # and then one in so long: a log of a day stays below 1 MiB

# --- demo ---
DEMO_BYTES = 24 << 20  # some 2 s at 100 Mbit/s
DEMO_LATE_PART = 0.3  # of the file that the first receiver has when the late one starts
DEMO_STEP_S = 0.5
DEMO_TIMEOUT_S = 60.0

# --- doctor ---
DOCTOR_WAIT_S = 10.0  # for a query
DOCTOR_TEST_WAIT_S = 60.0  # for the other side of a test
DOCTOR_JOIN_S = 1.0  # a report goes out within some 10 ms of a join
DOCTOR_STEP_S = 0.01
DOCTOR_HOSTS_MAX = 1024  # other hosts that are counted
PROBE_RATES_BPS = (1e6, 1e7, 1e8)
PROBE_STEP_S = 1.0  # of each rate
PROBE_GAP_S = 0.2  # between two rates: queues run empty
PROBE_SIZES_BYTES = (1280, 1500, 4096, 9000)  # of IPv6 packets, as far as the interface carries them
PROBE_COPIES = 5  # of packets of which one must get through
PROBE_HOPS = 16  # of the packets that count routers
PROBE_STEPS_MAX = 16  # rates of one test
PROBE_PACKETS_MAX = 1 << 22  # of one rate, a bit each: 512 KiB
PROBE_S_MAX = 300.0  # of a whole test: packets without end must not keep a receiver for ever
PROBE_SILENCE_S = 3.0  # after data: the sender is gone
