# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Key files, passwords, and ``lcsync key``."""

from __future__ import annotations

import os
import stat
import subprocess
from hashlib import blake2s
from pathlib import Path

import pytest

from lcsync import fetch, keyfiles, keys, serve, sign
from lcsync.cli import main
from lcsync.const import KEY_TEXT_BYTES_MAX, TRUSTED_MAX
from lcsync.errors import BadKey


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def umask() -> None:
    os.umask(0o022)


def test_a_new_shared_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    assert main(["key", "new", str(path)]) == 0
    content = path.read_bytes()
    assert len(content) == 128 and mode(path) == 0o600
    assert keyfiles.share_key(str(path)) == blake2s(content, person=b"lcs-key").digest()
    said = capsys.readouterr()
    assert not said.out and content.hex() not in said.err
    assert main(["key", "new", str(path)]) == 8 and path.read_bytes() == content
    assert "not written over" in capsys.readouterr().err
    assert main(["key", "new", str(tmp_path / "other")]) == 0 and (tmp_path / "other").read_bytes() != content


def test_a_new_signing_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sign"
    assert main(["key", "sign", str(path)]) == 0
    key = keyfiles.signing_key(str(path))
    public = sign.public_text(key.public_key().public_bytes_raw())
    assert capsys.readouterr().out == public + "\n" == (tmp_path / "sign.pub").read_text()
    assert mode(path) == 0o600 and mode(tmp_path / "sign.pub") == 0o644
    path.unlink()
    assert main(["key", "sign", str(path)]) == 8  # FILE.pub is there


@pytest.mark.parametrize("argv", [[], ["new"], ["make", "x"], ["new", "a", "b"]])
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", *argv]) == 2
    assert "lcsync key --help" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, bits: int) -> None:
    shared, signing = tmp_path / "key", tmp_path / "sign"
    keyfiles.new_share_key(str(shared))
    keyfiles.new_signing_key(str(signing))
    for path, read in ((shared, keyfiles.share_key), (signing, keyfiles.signing_key)):
        path.chmod(bits)
        with pytest.raises(BadKey, match=f"mode 0{bits:o}.*chmod 600"):
            read(str(path))
        path.chmod(0o400)
        read(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """By root's own hand: the key of a user, who may change it at any time."""
    path = tmp_path / "key"
    keyfiles.new_share_key(str(path))
    try:
        os.chown(path, 12345, 12345)
    except OSError:  # a user namespace with one user has nobody else
        assert Path("/proc/self/uid_map").read_text().split()[2] == "1"
        return
    with pytest.raises(BadKey, match="somebody else"):
        keyfiles.share_key(str(path))


def test_what_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="no such file"):
        keyfiles.share_key(str(tmp_path / "nothing"))
    with pytest.raises(BadKey, match="no regular file"):
        keyfiles.share_key(str(tmp_path))
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(BadKey, match="no regular file"):
        keyfiles.share_key(str(tmp_path / "fifo"))
    for size in (0, 127, 129, 1 << 20):
        path = tmp_path / str(size)
        path.touch(0o600)
        path.write_bytes(bytes(size))
        with pytest.raises(BadKey, match="128 bytes"):
            keyfiles.share_key(str(path))
        with pytest.raises(BadKey, match="no signing key"):
            keyfiles.signing_key(str(path))


def test_trusted_keys(tmp_path: Path) -> None:
    one, two = (sign.public_text(bytes((i,)) * 32) for i in (1, 2))
    path = tmp_path / "trusted"
    path.write_text(f"# ours\n{one}  # the first\n\n{two}\n")
    assert keyfiles.trusted([str(path)]) == [b"\1" * 32, b"\2" * 32]
    assert keyfiles.trusted([two, str(path)]) == [b"\2" * 32, b"\1" * 32, b"\2" * 32]
    assert keyfiles.trusted([]) == []
    wrong = {
        "no public key": b"what is that",
        "empty": b"# nothing\n",
        "binary": bytes(range(256)),
        "too long": b"#" * (KEY_TEXT_BYTES_MAX + 1),
        "too many": (one.encode() + b"\n") * (TRUSTED_MAX + 1),
    }
    for name, text in wrong.items():
        (tmp_path / name).write_bytes(text)
        with pytest.raises(BadKey):
            keyfiles.trusted([str(tmp_path / name)])
    for given in ("ed25519:12", str(tmp_path / "nothing")):
        with pytest.raises(BadKey):
            keyfiles.trusted([given])


def test_what_can_not_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keyfiles.new_share_key(str(tmp_path / "k"))
    path = str(tmp_path / "k")
    assert main(["name", "./x", "--keyfile", path, "--password"]) == 2
    assert main(["name", "./x", "--allow-older"]) == 2
    assert main(["name", "./x", "--keyfile", str(tmp_path / "nothing")]) == 16
    assert main(["name", "./x", "--trust", "ed25519:0"]) == 16
    assert main(["b2s:" + "0" * 64, "./x", "--trust", "ed25519:" + "0" * 64]) == 2
    assert main([path, "--sign", path]) == 16
    assert "no signing key" in capsys.readouterr().err


def test_options_do_not_show_keys() -> None:
    fetching = fetch.Options(scope=5, port=1, channels=1, timeout_s=1, key=b"secret")
    sharing = serve.Options(block_bytes=1, scope="site", port=1, hops=1, mtu=1, bwlimit_bps=1, key=b"secret")
    assert "secret" not in repr(fetching) + repr(sharing)


def test_a_password_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from lcsync import key
    from lcsync.options import parser

    args = parser().parse_args(["--password", "name"])
    monkeypatch.setenv("LCSYNC_PASSWORD", "geheim äöü")
    assert key.of_options(args) == keys.of_password("geheim äöü".encode())
    monkeypatch.setenv("LCSYNC_PASSWORD", "")
    with pytest.raises(BadKey, match="empty"):
        key.of_options(args)
    assert not key.of_options(parser().parse_args(["name"]))  # the variable alone means nothing


def test_a_password_can_not_be_asked_for_without_a_terminal(tmp_path: Path) -> None:
    import sys

    argv = [sys.executable, "-m", "lcsync", "--password", "name", "./x"]
    env = {name: value for name, value in os.environ.items() if name != "LCSYNC_PASSWORD"}
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 2 and "LCSYNC_PASSWORD" in done.stderr
