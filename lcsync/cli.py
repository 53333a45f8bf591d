# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The command line: what is meant, and who does it. Heavy modules are imported where they are used."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from lcsync import __version__, const
from lcsync.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Error, SourceError, UsageError
from lcsync.paths import is_local, printable, safe_relative, strip_prefix
from lcsync.trackers import AUTO, THRESHOLDS, TRACKERS

COMMANDS = ("demo", "doctor", "tune", "key", "watch")

DESCRIPTION = """\
Copies files to any number of machines at once over IPv6 multicast.
One path shares it; a name and a destination fetch it; two paths sync the one
onto the other. A sharing host answers no requests: it hears from MLD reports
which groups have listeners, and sends to those."""

EPILOG = """\
A local path begins with ./, ../ or /; all else is a name on the network
(name:X forces one). A file is shared under its base name, a folder D as D and
all below it as D/relative/path; NAME=PATH chooses the name.

examples:
  lcsync ./movie.iso              share a file as movie.iso
  lcsync movie.iso ./             fetch it into this folder
  lcsync /srv/class/              share a folder as class
  lcsync class /tmp/              fetch the folder to /tmp/class
  lcsync class/a/b.txt /tmp/      fetch one file of it
  lcsync movie.iso                say what is shared under this name
  lcsync ./a ./b                  make ./b equal to ./a
  lcsync demo                     see it work on this machine alone
  lcsync doctor                   say whether multicast works here, or why not
  lcsync tune                     find the best --tracker for this machine

exit codes:
  0  done                            7  source can't be read or has changed
  1  unexpected error                8  destination can't be written
  2  wrong usage                     9  disk full
  3  no such interface              10  wrong content
  4  no IPv6 or no multicast here   11  stalled: nothing came any more
  5  no privilege (--mld)           12  unsafe name
  6  nobody shares the name         13  a program is missing
                                    14  LCSYNC_SIMD can't run here
  130 and 143  ended by Ctrl-C (SIGINT) and by SIGTERM"""


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class _Stop:
    """Handles SIGINT and SIGTERM: the first ends the program; another one soon after must not break that off."""

    def __init__(self) -> None:
        self.since = float("-inf")

    def __call__(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if now - self.since >= const.STOP_S:
            self.since = now
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _exit_code(stop: KeyboardInterrupt) -> int:
    return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED


def _how(stop: KeyboardInterrupt) -> str:
    return "terminated" if isinstance(stop, Terminated) else "interrupted"


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


def _root(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != const.HASH_BYTES:
        raise argparse.ArgumentTypeError(f"{text}: not a root; 64 hexadecimal digits, as lcsync NAME prints them")
    return raw


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(reason=f"{message}; see lcsync --help")


def parser() -> argparse.ArgumentParser:
    """The parser; the manual page is made from it."""
    p = _Parser(
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
    p.add_argument("-n", "--dry-run", action="store_true", help="say what would be done, and do nothing")
    talk = p.add_argument_group("talk")
    talk.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    talk.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: say all")
    talk.add_argument("--loglevel", choices=("error", "info", "debug"), help="error is -q, info is -v, debug is -v -v")
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
    index = p.add_argument_group("index of hashes")
    index.add_argument("--index", metavar="FILE", help="keep it there (~/.cache/lcsync/index.sqlite unless told)")
    index.add_argument("--no-index", action="store_true", help="keep none, and read every file again")
    fetch = p.add_argument_group("fetching and syncing")
    fetch.add_argument("-r", "--recursive", action="store_true", help="take folders whole, as is done anyway")
    fetch.add_argument("-p", "--perms", action="store_true", help="set the permissions of the source")
    fetch.add_argument(
        "-a", "--archive", action="store_true", help="-r and -p; in a local sync, set times of files too"
    )
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
    fetch.add_argument("--root", type=_root, metavar="HEX", help="take only content with this root")
    fetch.add_argument(
        "--timeout",
        type=_number(0, 1e9, float),
        default=const.TIMEOUT_S,
        metavar="S",
        help="give up after so many seconds without an answer; 0: never (%(default)g unless told)",
    )
    old = p.add_argument_group("accepted for scripts made for lcsync 0.3.2, without effect")
    old.add_argument("-b", "--batch", action="store_true", help="packets always go in batches")
    old.add_argument("--loopback", action="store_true", help="other programs on this host always hear what is sent")
    return p


# --- what is meant ---


def _share_pair(arg: str) -> tuple[bytes, bytes] | None:
    """``(name, path)`` if the argument means a path to share: ``./PATH`` or ``NAME=./PATH``."""
    if is_local(arg):
        path = os.path.abspath(arg)
        name = os.path.basename(path)
        if not name:
            raise UsageError(reason=f"{arg}: has no name of its own; say NAME={arg}")
        return os.fsencode(name), os.fsencode(path)
    name, equals, path = arg.partition("=")
    if equals and is_local(path):
        return _network_name(name), os.fsencode(os.path.abspath(path))
    return None


def _network_name(arg: str) -> bytes:
    name = os.fsencode(strip_prefix(arg)).rstrip(b"/")
    safe_relative(name)
    return name


def _dispatch(args: argparse.Namespace) -> int:
    what: list[str] = args.what
    if args.version:
        print(f"lcsync {__version__}")
        if args.verbose:
            from lcsync import _blake2s

            print(f"BLAKE2s kernel {_blake2s.kernel()} (have: {', '.join(_blake2s.KERNELS)})")
        return 0
    if not what:
        raise UsageError(reason="nothing to do: name a path to share, or a name to fetch; see lcsync --help")
    if args.hex:
        return _hex(args, what)
    first = None if args.remote else _share_pair(what[0])
    if args.share:
        return _share(args, [_share_pair(arg) or _not_local(arg) for arg in what])
    if len(what) == 1:
        if first:
            return _share(args, [first])
        return _describe(args, what[0])
    if len(what) > 2:
        raise UsageError(reason=f"{len(what)} arguments; to share several paths: lcsync --share PATH PATH")
    source, destination = what
    if first and not is_local(destination):
        return _share(args, [(_network_name(destination), first[1])])
    if not is_local(destination):
        raise UsageError(reason=f"{destination}: a destination begins with ./, ../ or /; did you mean ./{destination}?")
    if is_local(source) and not args.remote:
        return _sync(args, source, destination)
    return _fetch(args, source, destination)


def _not_local(arg: str) -> tuple[bytes, bytes]:
    if os.path.lexists(arg):
        return _network_name(os.path.basename(os.path.abspath(arg))), os.fsencode(os.path.abspath(arg))
    raise SourceError(path=printable(arg), reason="no such file or folder")


# --- who does it ---


def _say(args: argparse.Namespace) -> Callable[[str], None]:
    def say(line: str) -> None:
        if not args.quiet:
            with suppress(BrokenPipeError):  # talk nobody reads any more must not end the work
                print(f"lcsync: {line}", file=sys.stderr, flush=True)

    return say


def _index(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The index on disk that the arguments mean: a context manager."""
    from lcsync.cache import TreeCache, default_path

    return TreeCache(None if args.no_index else args.index or default_path(), _say(args))


def _write_stats(args: argparse.Namespace, stats: dict[str, object]) -> None:
    if args.stats:
        import json

        from lcsync.errors import DestinationError

        try:
            with open(args.stats, "w", encoding="utf-8") as out:
                json.dump(stats, out)
                out.write("\n")
        except OSError as error:
            raise DestinationError(
                path=printable(args.stats), reason=f"{error.strerror}; choose another --stats FILE"
            ) from None


def _hex(args: argparse.Namespace, what: Sequence[str]) -> int:
    from lcsync import files

    for path in what:
        with files.closing(files.open_source(path)) as fd:
            tree = files.read_block_hashes(fd, os.fstat(fd).st_size, args.blocksz)
        print(f"root {tree.root.hex()}")
        for leaf in tree.leaves:
            print(leaf.tobytes().hex())
    return 0


def _tracker(args: argparse.Namespace, say: Callable[[str], None]):  # type: ignore[no-untyped-def]
    from lcsync import thresholds
    from lcsync.trackers.choice import Choice

    steps, source, wrong = thresholds.load() if args.tracker == AUTO else (THRESHOLDS, "", "")
    if wrong:
        say(wrong)
    options = {"fp_rate": args.bloom_fp, "cells": args.bloom_bits, "hashes": args.bloom_hashes}
    given = {name: value for name, value in options.items() if value is not None}
    return Choice(args.tracker, args.expect_groups, given, steps, source)


def _share(args: argparse.Namespace, paths: Sequence[tuple[bytes, bytes]]) -> int:
    from lcsync import link, serve

    say = _say(args)
    options = serve.Options(
        block_bytes=args.blocksz,
        scope=args.scope,
        port=args.port,
        hops=args.hops,
        mtu=args.mtu,
        bwlimit_bps=args.bwlimit,
        delay_s=args.delay / 1e6,
        interfaces=args.interface,
        tracker=_tracker(args, say),
        mld=args.mld,
        listener=args.listener,
        role=link.Role(args.mrd, args.querier, args.query_interval),
        verbose=args.verbose,
        say=say,
    )
    if args.dry_run:
        for line in serve.describe(paths, options):
            print(line)
        return 0
    with _index(args) as options.cache, serve.serving(paths, options) as server:
        try:
            say(server.greeting())
            server.run()
        except KeyboardInterrupt as stop:  # how a share ends
            return _exit_code(stop)
        finally:
            say(server.summary())
            _write_stats(args, server.stats())


def _names(args: argparse.Namespace, arg: str):  # type: ignore[no-untyped-def]
    """Join the name's group: before anything heavy is imported."""
    from lcsync import net
    from lcsync.names import NameListener

    name = _network_name(arg)
    return NameListener(name, net.interfaces(args.interface), const.SCOPES[args.scope], args.port)


def _fetch_options(args: argparse.Namespace, progress: Callable[[int, int], None]):  # type: ignore[no-untyped-def]
    from lcsync import fetch

    return fetch.Options(
        scope=const.SCOPES[args.scope],
        port=args.port,
        channels=args.channels,
        timeout_s=args.timeout or float("inf"),
        root=args.root,
        preserve=args.perms or args.archive,
        dry_run=args.dry_run,
        verbose=args.verbose,
        say=_say(args),
        progress=progress,
    )


def _fetch(args: argparse.Namespace, source: str, destination: str) -> int:
    with _names(args, source) as names, _index(args) as cache:
        from lcsync import fetch
        from lcsync.progress import Progress

        progress = Progress(sys.stderr, args.quiet)
        options = _fetch_options(args, progress)
        options.cache = cache
        try:
            result = fetch.fetch(names, destination, options)
        finally:
            progress.close()
        options.say(f"{printable(names.name)}: {result}")
        _write_stats(args, result.stats())
    return 0


def _describe(args: argparse.Namespace, arg: str) -> int:
    if os.path.lexists(arg) and not args.remote:
        _say(args)(f"to share it: lcsync {shlex.quote('./' + arg)}")
    with _names(args, arg) as names:
        from lcsync import fetch

        print(fetch.describe(names, _fetch_options(args, lambda here, total: None)))
    return 0


def _sync(args: argparse.Namespace, source: str, destination: str) -> int:
    from lcsync import local
    from lcsync.progress import Progress
    from lcsync.text import human_bytes

    progress = Progress(sys.stderr, args.quiet)
    try:
        with _index(args) as cache:
            summary = local.sync(
                source,
                destination,
                block_bytes=args.blocksz,
                dry_run=args.dry_run,
                preserve_mode=args.perms or args.archive,
                preserve_times=args.archive,
                inplace=args.inplace,
                ignore_times=args.ignore_times,
                cache=cache,
                progress=progress,
                verbose=args.verbose,
                out=sys.stdout,
            )
    finally:
        progress.close()
    speed = summary.bytes_compared / max(summary.seconds, 1e-9) / 1e9
    skipped = f", {summary.files_skipped} skipped (not regular files)" if summary.files_skipped else ""
    unread = f", {summary.files_unread} of them known to be equal" if summary.files_unread else ""
    _say(args)(
        f"compared {summary.files_compared} files, {human_bytes(summary.bytes_compared)}{unread}; "
        f"{'would write' if args.dry_run else 'wrote'} {human_bytes(summary.bytes_written)} "
        f"in {summary.files_changed}; {summary.seconds:.2f} s, {speed:.2f} GB/s{skipped}"
    )
    _write_stats(args, dict(vars(summary)))
    return 0


# --- the program ---


def run(argv: Sequence[str]) -> int:
    """Parse and do; raises what goes wrong."""
    if argv and argv[0] in COMMANDS:
        if argv[0] == "demo":
            from lcsync import demo

            return demo.main(argv[1:])
        if argv[0] == "tune":
            from lcsync import tune

            return tune.main(argv[1:])
        if argv[0] == "doctor":
            from lcsync import doctor

            return doctor.main(argv[1:])
        raise UsageError(reason=f"{argv[0]}: not in this version; if you mean a name on the network: name:{argv[0]}")
    args = parser().parse_intermixed_args(["--hex" if arg == "-hex" else arg for arg in argv])
    args.quiet = args.quiet or args.loglevel == "error"
    args.verbose = max(args.verbose, {"info": 1, "debug": 2}.get(args.loglevel, 0))
    return _dispatch(args)


def main(argv: Sequence[str] | None = None) -> int:
    """The program ``lcsync``; returns the exit code."""
    stop_signals = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    handler = _Stop()
    for number in stop_signals:  # one that is ignored stays so: as nohup, and & in a script, want it
        signal.signal(number, handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may not fit the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except Error as error:
        print(f"lcsync: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        state = "files may be part old, part new" if "--inplace" in sys.argv else "every file is the old or the new one"
        print(f"lcsync: {_how(stop)}; {state}: run again for the rest", file=sys.stderr)
        return _exit_code(stop)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "out of memory"
        path = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"lcsync: {path}{reason}", file=sys.stderr)
        return Error.exit_code
    finally:
        for number in stop_signals:  # all is done and said: from here on a signal just ends the process
            signal.signal(number, signal.SIG_DFL)


def share_main() -> int:
    """The program ``lcshare``: shares all its arguments."""
    return main(["--share", *sys.argv[1:]])
