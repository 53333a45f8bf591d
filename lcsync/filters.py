# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which paths are left out: the patterns of ``--exclude`` and ``--include``, as rsync(1) has them.

A path is relative to the top of what is copied; the first rule that matches it decides, and a folder that is left out
takes all below it with it. Source of the rules: rsync(1), "FILTER RULES"; what is left open there is as rsync 3.2 does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

WILD = re.compile(rb"[*?[]")
CLASSES = {
    b"alnum": rb"a-zA-Z0-9",
    b"alpha": rb"a-zA-Z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@[-`{-~",
    b"space": rb" \t-\r",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
NEVER = rb"(?!)"  # matches nothing: what a set without an end does


class Rule(NamedTuple):
    """One pattern: ``text`` as it was given, whether it lets in or leaves out, and how it is matched."""

    text: bytes
    include: bool
    folders_only: bool  # it ended with a slash
    by_name: bool  # it has no slash: only the last component counts
    from_slash: bool  # it begins with **, which may match the slash before a path too
    and_below: bool  # it ends with ***: a folder is matched as its own contents are
    regex: re.Pattern[bytes]

    def matches(self, path: bytes, folder: bool) -> bool:
        """Whether the path, relative and without a slash at its end, is one of those meant."""
        if self.folders_only and not folder:
            return False
        text = path.rpartition(b"/")[2] if self.by_name else path
        if self.from_slash:
            text = b"/" + text
        if self.and_below and folder:
            text += b"/"
        return self.regex.fullmatch(text) is not None


class Rules(tuple[Rule, ...]):
    """Rules in their order; none leaves out nothing."""

    __slots__ = ()

    def excluded(self, path: bytes, folder: bool) -> bool:
        """Whether ``path`` is left out. Its folders must have been asked about before."""
        for rule in self:
            if rule.matches(path, folder):
                return not rule.include
        return False

    def left_out(self, entries: Iterable[tuple[bytes, bool]], top: bytes = b"") -> tuple[set[bytes], int]:
        """Which paths below ``top`` are left out, and how many of them by themselves, not with their folder.

        ``entries``: each path with whether it is a folder; folders before what is in them.
        """
        out: set[bytes] = set()
        count = 0
        for path, folder in entries if self else ():
            if path.rpartition(b"/")[0] in out:
                out.add(path)
            elif self.excluded(top + path, folder):
                out.add(path)
                count += 1
        return out, count


NO_RULES = Rules()


def rules(given: Iterable[tuple[str, bytes]]) -> Rules:
    """Rules of options in their order: ``("exclude", pattern)`` or ``("include", pattern)``.

    A pattern may begin with ``+ `` or ``- ``, which decides, and a lone ``!`` forgets all rules before it.
    """
    found: list[Rule] = []
    for option, text in given:
        include = option == "include"
        if text == b"!":
            found.clear()
            continue
        if text[:2] in (b"+ ", b"- "):
            include, text = text[:1] == b"+", text[2:]
        if text:
            found.append(rule(text, include))
    return Rules(found)


def lines(data: bytes) -> list[bytes]:
    """The patterns in a file of them, one a line; empty lines and those that begin with ``#`` or ``;`` are not."""
    return [line for line in re.split(rb"[\r\n]+", data) if line and line[:1] not in (b"#", b";")]


def rule(text: bytes, include: bool) -> Rule:
    """The rule for one pattern, without prefix."""
    folders_only = len(text) > 1 and text.endswith(b"/")
    pattern = text[:-1] if folders_only else text
    wild = bool(WILD.search(pattern))
    double = pattern.find(b"**")
    by_name = b"/" not in pattern and double < 0
    anchored = pattern.startswith(b"/")
    body = pattern.removeprefix(b"/")
    regex = _regex(body) if wild else re.escape(body)
    if not (by_name or anchored or double == 0):
        # as many of the last components as the pattern has, by its slashes: one in a set counts, and matches none
        components = rb"(?=[^/]*(?:/[^/]*){%d}\Z)" % pattern.count(b"/") if double < 0 else b""
        regex = rb"(?:.*/)?" + components + regex
    and_below = double >= 0 and pattern.endswith(b"***")
    return Rule(text, include, folders_only, by_name, double == 0, and_below, re.compile(regex, re.DOTALL))


def _regex(pattern: bytes) -> bytes:
    """The regular expression for a pattern with wildcards."""
    found, i = b"", 0
    while i < len(pattern):
        char = pattern[i : i + 1]
        i += 1
        if char == b"*":
            start = i
            while pattern[i : i + 1] == b"*":
                i += 1
            found += rb"[^/]*" if i == start else rb".*"
        elif char == b"?":
            found += rb"[^/]"
        elif char == b"[":
            regex, i = _set(pattern, i)
            found += regex
        elif char == b"\\":
            found += re.escape(pattern[i : i + 1]) or NEVER
            i += 1
        else:
            found += re.escape(char)
    return found


def _set(pattern: bytes, i: int) -> tuple[bytes, int]:
    """The regular expression for the set that begins before ``i``, and where the pattern goes on. Never a slash."""
    negated = pattern[i : i + 1] in (b"!", b"^")
    i += negated
    found, before, first = b"", b"", True
    while first or pattern[i : i + 1] != b"]":
        first = False
        char = pattern[i : i + 1]
        if char == b"[" and pattern[i + 1 : i + 2] == b":":
            end = pattern.find(b"]", i + 2)
            if end < 0:
                return NEVER, len(pattern)
            if end > i + 2 and pattern[end - 1 : end] == b":":
                name = pattern[i + 2 : end - 1]
                if name not in CLASSES:
                    return NEVER, len(pattern)
                found, before, i = found + CLASSES[name].replace(b"[", rb"\["), b"", end + 1
                continue
        elif char == b"-" and before and pattern[i + 1 : i + 2] not in (b"", b"]"):
            last, i = _literal(pattern, i + 1)
            if not last:
                return NEVER, len(pattern)
            if before <= last:
                found += re.escape(before) + b"-" + re.escape(last)
            before = b""
            continue
        char, i = _literal(pattern, i)
        if not char:
            return NEVER, len(pattern)
        found, before = found + re.escape(char), char
    if negated:
        return rb"[^/%s]" % found, i + 1
    return (rb"(?!/)[%s]" % found if found else NEVER), i + 1


def _literal(pattern: bytes, i: int) -> tuple[bytes, int]:
    """The character at ``i``, a backslash before it taken away, and where the next one is."""
    i += pattern[i : i + 1] == b"\\"
    return pattern[i : i + 1], i + 1
