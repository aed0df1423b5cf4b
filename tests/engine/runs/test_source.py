"""The commit of the source is known with and without git, in a clone, a worktree and a clone whose references are packed."""

from __future__ import annotations

import pytest

from engine.runs.source import describe_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BRANCH = "refs/heads/main"


@pytest.fixture(autouse=True)
def no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_a_clone_without_git_names_its_commit(tmp_path):
    write(tmp_path / ".git" / "HEAD", f"ref: {BRANCH}")
    write(tmp_path / ".git" / BRANCH, COMMIT)
    assert describe_source(tmp_path) == {"commit": COMMIT}


def test_references_may_be_packed_and_the_head_detached(tmp_path):
    write(tmp_path / ".git" / "HEAD", f"ref: {BRANCH}")
    write(tmp_path / ".git" / "packed-refs", f"# pack-refs with: peeled\n{'f' * 40} {BRANCH}2\n{COMMIT} {BRANCH}")
    assert describe_source(tmp_path) == {"commit": COMMIT}
    write(tmp_path / ".git" / "HEAD", COMMIT)
    assert describe_source(tmp_path) == {"commit": COMMIT}


def test_a_worktree_finds_the_clone_it_belongs_to(tmp_path):
    place = tmp_path / "clone" / ".git" / "worktrees" / "other"
    write(place / "HEAD", f"ref: {BRANCH}")
    write(place / "commondir", "../..")
    write(tmp_path / "clone" / ".git" / BRANCH, COMMIT)
    write(tmp_path / "other" / ".git", f"gitdir: {place}")
    assert describe_source(tmp_path / "other") == {"commit": COMMIT}


def test_what_is_no_clone_or_of_another_layout_has_no_commit(tmp_path):
    assert describe_source(tmp_path) == {}
    write(tmp_path / ".git" / "HEAD", "ref: refs/heads/main")
    assert describe_source(tmp_path) == {}
