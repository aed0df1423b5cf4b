"""One rule for the cache: $XDG_CACHE_HOME, else ~/.cache, else a directory of this user's in the temporary one; said once."""

import os

import pytest

import inception.speed.cache
import pipelines.support.cache

ROOT = __file__.rpartition("/tests/")[0]
RULES = [pipelines.support.cache.user_cache, inception.speed.cache.user_cache]


@pytest.fixture(params=RULES, ids=["pipelines", "inception"])
def rule(request, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return request.param


def test_the_users_cache_comes_first(rule, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert rule() == tmp_path / "home/.cache/inception"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert rule() == tmp_path / "xdg/inception"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("home", ["/", "/proc/none", "{}/file/below", "relative"])
def test_without_a_home_it_is_a_private_folder_and_that_is_said_once(rule, monkeypatch, tmp_path, capfd, home):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", home.format(tmp_path))
    place = tmp_path / f"inception-{os.getuid()}"
    assert [rule(), rule()] == [place, place]
    assert place.stat().st_mode & 0o777 == 0o700
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(f"{place} is used, set XDG_CACHE_HOME to choose")


def test_a_user_without_a_name_has_a_cache(rule, monkeypatch, tmp_path):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert rule() == tmp_path / f"inception-{os.getuid()}"


def test_a_folder_of_somebody_else_is_not_used(rule, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/")
    place = tmp_path / f"inception-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)
    assert rule() not in (place, place.resolve())
    assert rule().parent == tmp_path


def test_where_nothing_can_be_written_the_writer_hears_of_it(rule, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr("tempfile.tempdir", "/proc/none")
    with pytest.raises(OSError, match="inception-"):
        (rule() / "x").mkdir()


def test_torchs_compiler_keeps_its_code_there_too(tmp_path, run_command):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, tempfile; tempfile.tempdir = None; from torch import nn; from engine.config.options import CompileConfig;"
        "from engine.graphs.compilation import prepare_compiler;"
        "os.environ.pop('XDG_CACHE_HOME', None); os.environ.pop('TORCHINDUCTOR_CACHE_DIR', None);"
        "prepare_compiler(CompileConfig(enabled=True), 1, nn.Identity()); print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    )
    done = run_command([script], env={"HOME": "/", "TMPDIR": str(tmp_path), "PYTHONPATH": ROOT})
    assert done.stdout.strip() == str(tmp_path / f"inception-{os.getuid()}/compile"), done.stderr
