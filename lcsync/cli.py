# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The command line: what is meant, and who does it. Heavy modules are imported where they are used."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lcsync import __version__, config, const
from lcsync.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Error, NobodyShares, SourceError, UsageError
from lcsync.nearest import nearest
from lcsync.options import of_destinations, parser
from lcsync.paths import STDOUT, is_local, one_line, printable, safe_relative, strip_prefix
from lcsync.trackers import AUTO, THRESHOLDS

if TYPE_CHECKING:
    from lcsync.progress import Talk

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
    fetched = len(what) == 2 and not args.share and is_local(what[1])
    shared = args.share or (first is not None and not fetched)
    if args.rules and not shared and not fetched:
        raise UsageError(reason=f"--{args.rules[0][0]}: of a share, a sync and a fetch (SOURCE ./DEST); leave it out")
    if not fetched and (option := of_destinations(args)):
        raise UsageError(reason=f"{option}: of a sync and a fetch alone (SOURCE ./DEST); leave it out")
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
    if destination == STDOUT and (args.remote or not is_local(source)):
        return _fetch(args, source, _checked_stdout(args))
    if not is_local(destination):
        raise UsageError(reason=f"{destination}: a destination begins with ./, ../ or /; did you mean ./{destination}?")
    if is_local(source) and not args.remote:
        return _sync(args, source, destination)
    return _fetch(args, source, destination)


def _checked_stdout(args: argparse.Namespace) -> str:
    """The destination that is standard output, if nothing speaks against it."""
    if option := of_destinations(args) or ("--json" if args.json else "-n" if args.dry_run else ""):
        raise UsageError(reason=f"{option}: not with standard output (-) as destination; leave it out")
    if os.isatty(sys.stdout.fileno()):
        raise UsageError(reason="-: standard output is a terminal; add | PROGRAM, or > FILE")
    return STDOUT


def _not_local(arg: str) -> tuple[bytes, bytes]:
    if os.path.lexists(arg):
        return _network_name(os.path.basename(os.path.abspath(arg))), os.fsencode(os.path.abspath(arg))
    raise SourceError(path=printable(arg), reason="no such file or folder")


# --- who does it ---


@contextmanager
def _talking(args: argparse.Namespace, command: str) -> Iterator[Talk]:
    """Where the run talks to; its picture is gone at the end."""
    from lcsync import progress
    from lcsync.events import Start

    talk = progress.talk(args.quiet, args.json)
    talk.tell(Start(__version__, command, tuple(map(printable, args.what))))
    try:
        yield talk
    finally:
        talk.close()


def _index(args: argparse.Namespace, talk: Talk):  # type: ignore[no-untyped-def]
    """The index on disk that the arguments mean: a context manager."""
    from lcsync.cache import TreeCache, default_path

    return TreeCache(None if args.no_index else args.index or default_path(), talk.say)


def _own_files(args: argparse.Namespace) -> list[str]:
    """What is written besides the destination."""
    from lcsync.cache import default_path

    index = [] if args.no_index else [args.index or default_path()]
    return index + ([args.stats] if args.stats else [])


def _figures(args: argparse.Namespace, talk: Talk, command: str, stats: dict[str, object]) -> None:
    """The figures at the end."""
    from lcsync.events import Summary

    talk.tell(Summary(command, stats))
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
    from lcsync.events import Item
    from lcsync.hashed import Hashed

    with _talking(args, "hash") as talk:
        hashed = Hashed(talk)
        for path in what:
            with files.closing(files.open_source(path)) as fd:
                size = os.fstat(fd).st_size
                tree = files.read_block_hashes(fd, size, args.blocksz, partial(hashed.look, path, size=size))
            root, blocks = tree.root.hex(), [leaf.tobytes().hex() for leaf in tree.leaves]
            if args.json:
                talk.tell(Item("file", printable(path), size, root, blocks=tuple(blocks)))
            else:
                print(f"root {root}", *blocks, sep="\n", file=talk.out)
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
    with _talking(args, "share") as talk:
        return _share_with(args, paths, talk)


def _share_with(args: argparse.Namespace, paths: Sequence[tuple[bytes, bytes]], talk: Talk) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # else numpy starts threads, that would keep their privileges
    from lcsync import confine, key, keyfiles, link, serve
    from lcsync.packing import What

    if args.mld is False and (args.min_receivers or args.max_wait < float("inf")):
        raise UsageError(reason="--no-mld sees nobody join: leave it out, or --min-receivers and --max-wait")
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
        tracker=_tracker(args, talk.say),
        mld=args.mld,
        listener=args.listener,
        role=link.Role(args.mrd, args.querier, args.query_interval),
        key=key.of_options(args),
        signing=keyfiles.signing_key(args.sign) if args.sign else None,
        what=What(acls=args.acls, xattrs=args.xattrs, rules=_rules(args)),
        verbose=args.verbose,
        say=talk.say,
        gauge=talk,
    )
    if args.dry_run:
        for item in serve.describe(paths, options):
            talk.tell(item)
            if not args.json:
                print(f"{item.root} {item.bytes:>14} {item.name}", file=talk.out)
        return 0
    if args.confine:
        options.confine = lambda: confine.share([path for _, path in paths], _own_files(args))
    with _index(args, talk) as options.cache, serve.serving(paths, options) as server:
        try:
            talk.close()  # what was read is read
            talk.say(server.greeting())
            server.run()
        except KeyboardInterrupt as stop:  # how a share ends
            return _exit_code(stop)
        finally:
            talk.close()
            talk.say(server.summary())
            _figures(args, talk, "share", server.stats())


def _share_key(args: argparse.Namespace) -> bytes:
    from lcsync import key

    return key.of_options(args)


@contextmanager
def _names(args: argparse.Namespace, arg: str):  # type: ignore[no-untyped-def]
    """Join the name's group: before anything heavy is imported."""
    from lcsync import net
    from lcsync.names import NameListener

    name, content = _network_name(arg), _content(arg)
    if content and args.trust:
        raise UsageError(reason="--trust: b2s:ROOT is content by its hash, whoever sends it; leave it out")
    trust = None if content else _trust(args)
    what = name, net.interfaces(args.interface), const.SCOPES[args.scope], args.port
    try:
        with NameListener(*what, content=content, key=args.key, trust=trust) as listener:
            yield listener
    except NobodyShares as error:
        raise error.with_hint("" if content else _hint(args, printable(name))) from None
    if not content:
        _heard(args).add(printable(name))


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

    last = accepted.Accepted(os.path.join(os.path.dirname(args.index or default_path()), accepted.FILE))
    last.make_folder()  # while it can be made: a fetch is confined before it writes there
    return trust.Trust(keyfiles.trusted(args.trust), args.key, last, args.allow_older)


def _heard(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The names that were heard before."""
    from pathlib import Path

    from lcsync.cache import default_path
    from lcsync.heard import HeardNames

    return HeardNames(None if args.no_index else Path(default_path()).with_name("names"))


def _hint(args: argparse.Namespace, name: str) -> str:
    """What may have been meant by a name that nobody shares."""
    if os.path.lexists(name):
        return f" To share it: lcsync {shlex.quote('./' + name)}"
    found = nearest(name, [*COMMANDS[:3], *(other for other in _heard(args).names() if other != name)])
    return f" Did you mean {found}?" if found else ""


def _fetch_options(args: argparse.Namespace, talk: Talk):  # type: ignore[no-untyped-def]
    from lcsync import fetch

    return fetch.Options(
        scope=const.SCOPES[args.scope],
        port=args.port,
        channels=args.channels,
        memory_bytes=args.max_memory,
        size_max=args.max_size,
        timeout_s=args.timeout or float("inf"),
        root=args.root,
        key=args.key,
        sync=_sync_options(args),
        verbose=args.verbose,
        say=talk.say,
        out=talk.out,
        gauge=talk,
    )


def _fetch(args: argparse.Namespace, source: str, destination: str) -> int:
    args.key = _share_key(args)
    with _names(args, source) as names, _talking(args, "fetch") as talk, _index(args, talk) as cache:
        from lcsync import fetch
        from lcsync.attributes import Keep

        options = _fetch_options(args, talk)
        options.cache = cache
        if names.content:  # nobody answers for more than the content
            options.sync = replace(options.sync, keep=Keep())
        if args.confine:
            from lcsync import confine
            from lcsync.files import resolve_destination

            if destination == STDOUT:
                folder = tempfile.gettempdir()
            else:
                folder = os.path.dirname(resolve_destination(destination, safe_relative(names.name)[-1]))
            kept = [] if names.trust is None else [names.trust.accepted.path]
            said = confine.fetch(folder, _own_files(args) + kept)
            if args.verbose:
                options.say(said)
        try:
            result = fetch.fetch(names, destination, options, inside=source.endswith("/"))
        finally:
            talk.close()
        for line in f"{printable(names.name)}: {result}".splitlines():
            talk.say(line)
        if result.advice:
            talk.say(result.advice)
        _figures(args, talk, "fetch", result.stats())
    return 0


def _describe(args: argparse.Namespace, arg: str) -> int:
    args.key = _share_key(args)
    with _names(args, arg) as names, _talking(args, "describe") as talk:
        from lcsync import fetch

        if os.path.lexists(arg) and not args.remote:
            talk.say(f"to share it: lcsync {shlex.quote('./' + arg)}")
        item = fetch.describe(names, _fetch_options(args, talk))
        talk.close()
        talk.tell(item)
        if not args.json:
            print(fetch.in_a_line(item), file=talk.out)
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


def _sync_options(args: argparse.Namespace):  # type: ignore[no-untyped-def]
    from lcsync import job

    return job.Options(
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


def _sync(args: argparse.Namespace, source: str, destination: str) -> int:
    from lcsync import local

    with _talking(args, "sync") as talk:
        with _index(args, talk) as cache:
            summary = local.sync(source, destination, _sync_options(args), cache=cache, gauge=talk, out=talk.out)
        talk.close()
        talk.say(summary.in_all(args.dry_run))
        _figures(args, talk, "sync", dict(vars(summary)))
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
    args = config.parse(parser(), ["--hex" if arg == "-hex" else arg for arg in argv])
    args.quiet = args.quiet or args.loglevel == "error"
    args.verbose = max(args.verbose, {"info": 1, "debug": 2}.get(args.loglevel, 0))
    return _dispatch(args)


def _run(argv: Sequence[str]) -> tuple[int, str, str]:
    """The exit code; what there is to be said; and the class of the error, if it was one."""
    try:
        return run(argv), "", ""
    except Error as error:
        return error.exit_code, str(error), type(error).__name__
    except KeyboardInterrupt as stop:
        state = "files may be part old, part new" if "--inplace" in argv else "each file is the old or the new one"
        return _exit_code(stop), f"{_how(stop)}; {state}: run again", ""
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "out of memory"
        path = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        return Error.exit_code, f"{path}{reason}", Error.__name__


def main(argv: Sequence[str] | None = None) -> int:
    """The program ``lcsync``; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    stop_signals = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    handler = _Stop()
    for number in stop_signals:  # one that is ignored stays so: as nohup, and & in a script, want it
        signal.signal(number, handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may not fit the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        code, reason, error = _run(argv)
        if reason:
            print(f"lcsync: {one_line(reason)}", file=sys.stderr)
        if "--json" in argv and argv[0] not in COMMANDS:
            from lcsync.events import End
            from lcsync.progress import Json

            Json(sys.stdout).tell(End(code, error, reason))
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        for number in stop_signals:  # all is done and said: from here on a signal just ends the process
            signal.signal(number, signal.SIG_DFL)


def share_main() -> int:
    """The program ``lcshare``: shares all its arguments."""
    return main(["--share", *sys.argv[1:]])
