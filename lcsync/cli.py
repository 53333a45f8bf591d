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
from lcsync.options import local_only, parser
from lcsync.paths import is_local, printable, safe_relative, strip_prefix
from lcsync.trackers import AUTO, THRESHOLDS

COMMANDS = ("demo", "doctor", "tune", "key", "watch")


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
    synced = len(what) == 2 and not args.share and not args.remote and all(map(is_local, what))
    if not synced and (option := local_only(args)):
        raise UsageError(reason=f"{option}: only a local sync does that yet (./SOURCE ./DEST); leave it out")
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
    from lcsync import key, keyfiles, link, serve

    if args.mld is False and (args.min_receivers or args.max_wait < float("inf")):
        raise UsageError(reason="--no-mld sees nobody join: leave it out, or --min-receivers and --max-wait")
    say = _say(args)
    options = serve.Options(
        block_bytes=args.blocksz,
        scope=args.scope,
        port=args.port,
        hops=args.hops,
        mtu=args.mtu,
        bwlimit_bps=args.bwlimit,
        delay_s=args.delay / 1e6,
        min_receivers=args.min_receivers,
        max_wait_s=args.max_wait,
        interfaces=args.interface,
        tracker=_tracker(args, say),
        mld=args.mld,
        listener=args.listener,
        role=link.Role(args.mrd, args.querier, args.query_interval),
        key=key.of_options(args),
        signing=keyfiles.signing_key(args.sign) if args.sign else None,
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


def _share_key(args: argparse.Namespace) -> bytes:
    from lcsync import key

    return key.of_options(args)


def _names(args: argparse.Namespace, arg: str):  # type: ignore[no-untyped-def]
    """Join the name's group: before anything heavy is imported."""
    from lcsync import net
    from lcsync.names import NameListener

    name, content = _network_name(arg), _content(arg)
    if content and args.trust:
        raise UsageError(reason="--trust: b2s:ROOT is content by its hash, whoever sends it; leave it out")
    return NameListener(
        name,
        net.interfaces(args.interface),
        const.SCOPES[args.scope],
        args.port,
        content=content,
        key=args.key,
        trust=None if content else _trust(args),
    )


def _content(arg: str) -> bytes:
    """The root that ``b2s:ROOT`` means; empty if it is a name."""
    try:
        root = bytes.fromhex(arg[len(const.CONTENT_PREFIX) :]) if arg.startswith(const.CONTENT_PREFIX) else b""
    except ValueError:
        root = b""
    return root if len(root) == const.HASH_BYTES else b""


def _trust(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """What is asked of manifests; None if there is neither key nor --trust."""
    from lcsync import accepted, keyfiles, trust

    if not args.key and not args.trust:
        if args.allow_older:
            raise UsageError(reason="--allow-older: without --trust or a key any version is taken; leave it out")
        return None
    from lcsync.cache import default_path

    beside = os.path.join(os.path.dirname(args.index or default_path()), accepted.FILE)
    return trust.Trust(keyfiles.trusted(args.trust), args.key, accepted.Accepted(beside), args.allow_older)


def _fetch_options(args: argparse.Namespace, progress: Callable[[int, int], None]):  # type: ignore[no-untyped-def]
    from lcsync import fetch

    return fetch.Options(
        scope=const.SCOPES[args.scope],
        port=args.port,
        channels=args.channels,
        memory_bytes=args.max_memory,
        timeout_s=args.timeout or float("inf"),
        root=args.root,
        key=args.key,
        preserve=args.perms or args.archive,
        dry_run=args.dry_run,
        verbose=args.verbose,
        say=_say(args),
        progress=progress,
    )


def _fetch(args: argparse.Namespace, source: str, destination: str) -> int:
    args.key = _share_key(args)
    with _names(args, source) as names, _index(args) as cache:
        from lcsync import fetch
        from lcsync.progress import Progress

        progress = Progress(sys.stderr, args.quiet)
        options = _fetch_options(args, progress)
        options.cache = cache
        options.preserve = options.preserve and not names.content  # nobody answers for more than the content
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
    args.key = _share_key(args)
    with _names(args, arg) as names:
        from lcsync import fetch

        print(fetch.describe(names, _fetch_options(args, lambda here, total: None)))
    return 0


def _keep(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """What of the source is kept, as in rsync: -a is -rlptgoD, and ACLs take permissions with them."""
    from lcsync.attributes import Keep

    return Keep(
        links=args.links or args.archive,
        perms=args.perms or args.archive or args.acls,
        times=args.times or args.archive,
        owner=args.owner or args.archive,
        group=args.group or args.archive,
        devices=args.devices or args.devices_specials or args.archive,
        specials=args.specials or args.devices_specials or args.archive,
        hard_links=args.hard_links,
        acls=args.acls,
        xattrs=args.xattrs,
        numeric_ids=args.numeric_ids,
    )


def _rules(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The rules for paths, in the order of the options."""
    from lcsync import filters

    given: list[tuple[str, bytes]] = []
    for option, text in args.rules:
        kind, _, from_file = option.partition("-")
        if from_file:
            try:
                with open(text, "rb") as file:
                    given += [(kind, line) for line in filters.lines(file.read())]
            except OSError as error:
                reason = f"{(error.strerror or str(error)).lower()}; --{option} names a file of patterns"
                raise SourceError(path=printable(text), reason=reason) from None
        else:
            given.append((kind, text))
    return filters.rules(given)


def _sync(args: argparse.Namespace, source: str, destination: str) -> int:
    from lcsync import job, local
    from lcsync.progress import Progress
    from lcsync.text import human_bytes

    options = job.Options(
        keep=_keep(args),
        rules=_rules(args),
        block_bytes=args.blocksz,
        dry_run=args.dry_run,
        delete=args.delete,
        backup=args.backup,
        inplace=args.inplace,
        sparse=args.sparse,
        ignore_times=args.ignore_times,
        verbose=args.verbose,
    )
    progress = Progress(sys.stderr, args.quiet)
    try:
        with _index(args) as cache:
            summary = local.sync(source, destination, options, cache=cache, progress=progress, out=sys.stdout)
    finally:
        progress.close()
    speed = summary.bytes_compared / max(summary.seconds, 1e-9) / 1e9
    unread = f", {summary.files_unread} of them known to be equal" if summary.files_unread else ""
    others = f"; {summary}" if str(summary) else ""
    _say(args)(
        f"compared {summary.files_compared} files, {human_bytes(summary.bytes_compared)}{unread}; "
        f"{'would write' if args.dry_run else 'wrote'} {human_bytes(summary.bytes_written)} "
        f"in {summary.files_changed}; {summary.seconds:.2f} s, {speed:.2f} GB/s{others}"
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
        if argv[0] == "key":
            from lcsync import key

            return key.main(argv[1:])
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
