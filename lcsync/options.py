# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The options: their names, their texts, and how their values are read."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

from lcsync import const
from lcsync.parsing import Parser
from lcsync.trackers import AUTO, TRACKERS

DESCRIPTION = """\
Copies files to any number of machines at once over IPv6 multicast.
One path shares it; a name and a destination fetch it; two paths sync the one
onto the other. A sharing host answers no requests: it hears from MLD reports
which groups have listeners, and sends to those."""

EPILOG = """\
A local path begins with ./, ../ or /; all else is a name on the network
(name:X forces one), and b2s:ROOT content by its root. A file is shared under
its base name, a folder D as D and each file below it as D/relative/path;
NAME=PATH chooses the name.

examples:
  lcsync ./movie.iso              share a file as movie.iso
  lcsync movie.iso ./             fetch it into this folder
  lcsync /srv/class/              share a folder as class
  lcsync class /tmp/              fetch the folder to /tmp/class
  lcsync -a --delete class/ ./c   make ./c equal to it, as rsync does
  lcsync class/a/b.txt /tmp/      fetch one file of it
  lcsync disk.zst - | zstd -d     fetch a file to standard output, in order
  lcsync movie.iso                say what is shared under this name
  lcsync ./a ./b                  make ./b equal to ./a
  lcsync demo                     see it work on this machine alone
  lcsync doctor                   say whether multicast works here, or why not
  lcsync tune                     find the best --tracker for this machine
  lcsync key new FILE             make a key for --keyfile

exit codes:
  0  done                            7  source can't be read or has changed
  1  unexpected error                8  destination can't be written
  2  wrong usage                     9  disk full
  3  no such interface              10  wrong content
  4  no IPv6 or no multicast here   11  stalled: nothing came any more
  5  no privilege (--mld)           12  unsafe name
  6  nobody shares the name         13  a program is missing
                                    14  LCSYNC_SIMD can't run here
                                    15  not trusted, or too old
                                    16  a key can't be used
  130 and 143  ended by Ctrl-C (SIGINT) and by SIGTERM"""


def _number(low: float, high: float, kind: Callable[[str], float] = int) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: not between {low:g} and {high:g}")
        return value

    parse.__name__ = "number"
    return parse


def _rate(text: str) -> float:
    """Bits per second with an SI prefix, or ``max``."""
    if text == "max":
        return float("inf")
    scale = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}.get(text[-1:].lower(), 1)
    try:
        value = float(text[:-1] if scale > 1 else text) * scale
    except ValueError:
        value = 0
    if not 1000 <= value <= 1e12:
        raise argparse.ArgumentTypeError(f"{text}: not a rate; say 800k, 100M, 2.5G (bits per second) or max")
    return value


def _block_bytes(text: str) -> int:
    scale = {"k": 1 << 10, "m": 1 << 20}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    value = int(digits) * scale if digits.isdigit() else 0
    if not const.BLOCK_BYTES_MIN <= value <= const.BLOCK_BYTES_MAX or value & (value - 1):
        raise argparse.ArgumentTypeError(f"{text}: not a block size; a power of two from 1K to 1M, 16K unless told")
    return value


def _memory_bytes(text: str) -> int:
    scale = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    value = int(digits) * scale if digits.isdigit() else 0
    if not const.MEMORY_BYTES_MIN <= value <= const.MEMORY_BYTES_MAX:
        raise argparse.ArgumentTypeError(f"{text}: not an amount of memory; say 64M to 64G")
    return value


def _size_bytes(text: str) -> int:
    scale = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}.get(text[-1:].lower(), 1)
    digits = text[:-1] if scale > 1 else text
    if not (digits.isascii() and digits.isdigit()):
        raise argparse.ArgumentTypeError(f"{text}: not a size; say 500K, 700M, 4G or 1T")
    return int(digits) * scale


def _root(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != const.HASH_BYTES:
        raise argparse.ArgumentTypeError(f"{text}: not a root; 64 hexadecimal digits, as lcsync NAME prints them")
    return raw


def parser() -> argparse.ArgumentParser:
    """The parser; the manual page is made from it."""
    p = Parser(
        prog="lcsync",
        usage="lcsync [OPTION]... PATH | NAME [DEST] | SOURCE DEST",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("what", nargs="*", metavar="PATH|NAME", help="what to share, to fetch or to sync; see below")
    p.add_argument("-V", "--version", action="store_true", help="print the version and exit")
    p.add_argument("--share", action="store_true", help="share every PATH (as the program lcshare does)")
    p.add_argument("--remote", action="store_true", help="the first argument is a name on the network")
    p.add_argument("--hex", action="store_true", help="print the root and the block hashes of PATH")
    p.add_argument("--no-config", action="store_true", help="heed neither LCSYNC_* variables nor config.toml")
    p.add_argument("-n", "--dry-run", action="store_true", help="say what would be done, and do nothing")
    talk = p.add_argument_group("talk")
    talk.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    talk.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: say all")
    talk.add_argument("--loglevel", choices=("error", "info", "debug"), help="error is -q, info is -v, debug is -v -v")
    talk.add_argument("--json", action="store_true", help="print events for programs, one JSON object a line")
    talk.add_argument("--stats", metavar="FILE", help="write figures to FILE at the end, as one JSON object")
    both = p.add_argument_group("network")
    both.add_argument(
        "-i",
        "--interface",
        action="append",
        default=[],
        metavar="IFACE",
        help="use this interface; may be given more than once (all that can do multicast unless told)",
    )
    both.add_argument(
        "--scope",
        choices=tuple(const.SCOPES),
        default=const.SCOPE,
        help="how far groups reach (%(default)s unless told)",
    )
    both.add_argument(
        "--port", type=_number(1, 65535), default=const.PORT, metavar="N", help="UDP port (%(default)s unless told)"
    )
    both.add_argument("--keyfile", metavar="FILE", help="share and fetch with this key: lcsync key new FILE makes one")
    both.add_argument(
        "--password", action="store_true", help="the same with a password: LCSYNC_PASSWORD, or asked for"
    )
    both.add_argument(
        "--no-confine",
        dest="confine",
        action="store_false",
        help="keep all privileges, and reach of all files, while sharing or fetching; see lcsync(1)",
    )
    share = p.add_argument_group("sharing")
    share.add_argument(
        "--mld",
        action="store_true",
        default=None,
        help="send only while somebody listens, and fail if MLD can't be heard (unless told: send all the time then)",
    )
    share.add_argument(
        "--no-mld", dest="mld", action="store_false", help="send all the time, whether or not anybody listens"
    )
    share.add_argument(
        "--listener",
        choices=("both", "packet", "icmp6"),
        default="both",
        help="how MLD is heard: packet hears other hosts, icmp6 MLDv2 only (both unless told)",
    )
    share.add_argument(
        "--no-mrd", dest="mrd", action="store_false", help="do not tell switches that joins are to be heard here"
    )
    share.add_argument("--querier", action="store_true", help="be the MLD querier where no other is; see lcsync(1)")
    share.add_argument(
        "--query-interval",
        type=_number(1, 3600),
        default=const.OWN_QUERY_INTERVAL_S,
        metavar="S",
        help="time between queries of --querier (%(default)g unless told)",
    )
    share.add_argument(
        "--bwlimit",
        type=_rate,
        default=const.BWLIMIT_BPS,
        metavar="RATE",
        help="bits per second in all, with k, M or G; max for no limit (100M unless told)",
    )
    share.add_argument(
        "--delay",
        type=_number(0, 1e6),
        default=0,
        metavar="US",
        help="least time between two packets of a group, in µs",
    )
    share.add_argument(
        "--min-receivers",
        type=_number(1, const.HOSTS_COUNTED_MAX),
        default=0,
        metavar="N",
        help="send no data before so many hosts have joined; one whose --timeout is shorter gives up",
    )
    share.add_argument(
        "--max-wait",
        type=_number(0, 1e9, float),
        default=float("inf"),
        metavar="S",
        help="nor later than so many seconds after the first of them (no limit unless told)",
    )
    share.add_argument(
        "--hops",
        type=_number(0, 255),
        default=const.HOPS,
        metavar="N",
        help="hop limit of packets (%(default)s unless told)",
    )
    share.add_argument(
        "--mtu",
        type=_number(const.MTU_MIN, const.MTU_MAX),
        default=const.MTU,
        metavar="N",
        help="largest IPv6 packet that the path carries (%(default)s unless told)",
    )
    share.add_argument(
        "--tracker",
        choices=(AUTO, *TRACKERS),
        default=AUTO,
        help="how groups with listeners are kept: auto chooses by their expected number",
    )
    share.add_argument(
        "--expect-groups",
        type=_number(1, 1 << 32),
        metavar="N",
        help="how many groups to expect (those in the index, at most 4096, unless told)",
    )
    share.add_argument(
        "--bloom-fp",
        type=_number(1e-9, 0.5, float),
        metavar="P",
        help="how often a Bloom filter may take an absent group for a present one "
        f"({const.TRACKER_FP_RATE:g} unless told)",
    )
    share.add_argument(
        "--bloom-bits",
        type=_number(1, 1 << 40),
        metavar="N",
        help="cells of the Bloom filter, 2 bytes each (by --expect-groups and --bloom-fp unless told)",
    )
    share.add_argument(
        "--bloom-hashes",
        type=_number(1, 12),
        metavar="N",
        help="cells that a group has in the Bloom filter (as many as do best unless told)",
    )
    share.add_argument(
        "--blocksz",
        type=_block_bytes,
        default=const.BLOCK_BYTES,
        metavar="SIZE",
        help="block size for sharing, local sync and --hex: a power of two from 1K to 1M (16K unless told)",
    )
    share.add_argument("--sign", metavar="FILE", help="sign with this key: lcsync key sign FILE makes one")
    index = p.add_argument_group("index of hashes")
    index.add_argument("--index", metavar="FILE", help="keep it there (~/.cache/lcsync/index.sqlite unless told)")
    index.add_argument("--no-index", action="store_true", help="keep none, and read every file again")
    fetch = p.add_argument_group("fetching and syncing")
    fetch.add_argument("-r", "--recursive", action="store_true", help="take folders whole, as is done anyway")
    fetch.add_argument(
        "-a", "--archive", action="store_true", help="as -rlptgoD: all but -H, -A, -X"
    )
    fetch.add_argument("-p", "--perms", action="store_true", help="set the permissions of the source")
    fetch.add_argument(
        "--inplace", action="store_true", help="local sync: write what differs into the file itself, not into a copy"
    )
    fetch.add_argument(
        "--ignore-times", action="store_true", help="local sync: compare files of equal size and time too"
    )
    fetch.add_argument(
        "-c",
        "--channels",
        type=_number(1, const.CHANNELS_MAX),
        default=const.CHANNELS,
        metavar="N",
        help="most groups to be in at once (%(default)s unless told)",
    )
    fetch.add_argument(
        "--max-memory",
        type=_memory_bytes,
        default=const.MEMORY_BYTES,
        metavar="SIZE",
        help="for what is on its way, from 64M (256M unless told): repair groups are joined as far as it goes",
    )
    fetch.add_argument(
        "--max-size",
        type=_size_bytes,
        default=float("inf"),
        metavar="SIZE",
        help="fetch nothing that has more bytes, with K, M, G or T (no limit unless told)",
    )
    fetch.add_argument("--root", type=_root, metavar="HEX", help="take only content with this root")
    fetch.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="KEY",
        help="take only what this public key signed; KEY or a file of keys, may be given more than once",
    )
    fetch.add_argument(
        "--allow-older", action="store_true", help="with --trust or a key: take versions older than the last one, too"
    )
    fetch.add_argument(
        "--timeout",
        type=_number(0, 1e9, float),
        default=const.TIMEOUT_S,
        metavar="S",
        help="give up after so many seconds without an answer; 0: never (%(default)g unless told)",
    )
    _add_local(p.add_argument_group("syncing, and fetching of folders, as in rsync(1)"))
    old = p.add_argument_group("accepted for scripts made for lcsync 0.3.2, without effect")
    old.add_argument("-b", "--batch", action="store_true", help="packets always go in batches")
    old.add_argument("--loopback", action="store_true", help="other programs on this host always hear what is sent")
    return p


LOCAL_FLAGS = (
    ("-l", "--links", "copy symbolic links as such, and replace those in the way"),
    ("-t", "--times", "set modification times"),
    ("-o", "--owner", "set the owner, by name; root alone can"),
    ("-g", "--group", "set the group, by name; unless root, to one of yours"),
    ("", "--devices", "copy devices; root alone can"),
    ("", "--specials", "copy fifos and sockets"),
    ("-H", "--hard-links", "names of one file become names of one file"),
    ("-A", "--acls", "set POSIX ACLs, and permissions; in sharing: tell them"),
    ("-X", "--xattrs", "set extended attributes: as root all but system.*, else user.*; in sharing: tell them"),
    ("", "--numeric-ids", "set owners and groups by number, not by name"),
    ("-S", "--sparse", "make holes of zeros in files that are written (holes of the source stay holes anyway)"),
    ("", "--delete", "delete from folders what the source's do not have; see -n"),
    ("", "--backup", "keep what is replaced or deleted under its name and ~"),
)


DESTINATION_FLAGS = ("--numeric-ids", "--sparse", "--delete", "--backup")


def of_destinations(args: argparse.Namespace) -> str:
    """The first option given that only a sync or a fetch heeds; empty if there is none."""
    return next((long for long in DESTINATION_FLAGS if getattr(args, long[2:].replace("-", "_"))), "")


def _add_local(group: argparse._ArgumentGroup) -> None:
    for short, long, text in LOCAL_FLAGS:
        group.add_argument(*([short] if short else []), long, action="store_true", help=text)
    group.add_argument("-D", dest="devices_specials", action="store_true", help="--devices --specials")
    for option, metavar, text in (
        (
            "exclude",
            "PATTERN",
            "leave out what matches, here and there (--delete spares it), or of a shared folder; the first rule wins",
        ),
        ("include", "PATTERN", "do not leave out what matches"),
        ("exclude-from", "FILE", "the same with each line of FILE"),
        ("include-from", "FILE", "the same with each line of FILE"),
    ):
        group.add_argument(
            f"--{option}",
            action="append",
            default=[],
            type=partial(_rule, option),
            dest="rules",
            metavar=metavar,
            help=text,
        )


def _rule(option: str, text: str) -> tuple[str, bytes]:
    return option, os.fsencode(text)
