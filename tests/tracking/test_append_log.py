"""Lines that are whole or not there: what a kill or a full disk leaves is taken back; a claim ends with its owner."""

import errno
import os

import pytest

from fedlab.tracking.append_log import AppendLog, cannot_write


@pytest.mark.parametrize("torn", [b"", b"{", b"x" * 200_000])
def test_an_unfinished_line_is_cut_off_or_closed(tmp_path, torn):
    path = tmp_path / "new" / "log"
    for mend, left in (("cut", b""), ("end_line", torn + b"\n" if torn else b"")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a\n" + torn)
        with AppendLog(path) as log:
            getattr(log, mend)()
            log.append(b"b\n")
        assert path.read_bytes() == b"a\n" + left + b"b\n"


def test_what_a_full_disk_cuts_short_is_taken_back(tmp_path, monkeypatch):
    write, room = os.write, [3]

    def full(file: int, data: memoryview) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: room.pop()])

    with AppendLog(tmp_path / "log", sync=True) as log:
        log.append(b"first\n")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left") as caught:
            log.append(b"second\n")
        monkeypatch.undo()
    assert log.path.read_bytes() == b"first\n"
    assert "No space left on device. Free some" in str(cannot_write(log.path, caught.value, "Free some"))


def test_one_has_it_until_it_closes_it(tmp_path):
    with AppendLog(tmp_path / "log") as one, AppendLog(tmp_path / "log") as other:
        one.lock()
        with pytest.raises(BlockingIOError):
            other.lock()
        one.close()
        one.close()
        assert one.closed and not other.closed
        other.lock(wait=True)
