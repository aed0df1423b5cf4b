"""A lock that one process holds, whoever owns its file and whoever removes it."""

import os
import shutil
import threading

from pipelines.support.locks import machine_lock
from waiting import IN_A_THREAD


def test_those_who_wait_for_a_removed_lock_still_come_one_at_a_time(tmp_path):
    """As when who is done removes the folder that the lock lies in."""
    file, inside, most = tmp_path / "work/x.lock", [], []

    def work() -> None:
        with machine_lock(file, announce=False):
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            shutil.rmtree(file.parent, ignore_errors=True)  # once its lock is gone, the next one may be at it as well

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(IN_A_THREAD)
    assert most == [1] * 8
    assert not file.parent.exists()


def test_another_users_lock_file_is_locked_as_well(tmp_path, monkeypatch):
    (tmp_path / "x.lock").touch()
    plain = os.open

    def refused(path, flags, *mode):
        if flags & os.O_RDWR and str(path).endswith("x.lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, flags, *mode)

    monkeypatch.setattr(os, "open", refused)
    with machine_lock(tmp_path / "x.lock", announce=False) as waited:
        assert not waited
