"""The commands that documents and docstrings print: each exists, each option parses; make's set-up explains itself."""

import importlib
import os
import re
import shutil
import subprocess
import textwrap

import pytest

from conftest import ROOT
from study import ablation, registry

FOLDERS = ("", "beyond/", "study/")
SCRIPTS = [f"{folder}{path.stem}" for folder in FOLDERS for path in sorted(ROOT.glob(f"code/{folder}*.py"))]
SCRIPTS = [script for script in SCRIPTS if "def parse_args" in (ROOT / "code" / f"{script}.py").read_text()]
START = r"(?:python|torchrun(?: --\S+)+|sbatch docs/cluster/long\.sbatch)"
PRINTED = re.compile(START + r" code/([\w/]+)\.py((?: -?[-\w.]+)*)(?=`|\s\s|\n|$)")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
WRITTEN = [*DOCUMENTS, ROOT / "Makefile", *ROOT.glob("code/**/*.py")]


def printed_commands():
    for path in WRITTEN:
        for script, words in PRINTED.findall(path.read_text()):
            yield script, tuple(words.split())


@pytest.mark.parametrize(("script", "words"), sorted(set(printed_commands())), ids=str)
def test_every_printed_command_parses(script, words):
    assert script in SCRIPTS
    args = importlib.import_module(script.replace("/", ".")).parse_args(list(words))
    known = {entry.name for entry in registry.RUNS} | {"nf-wide", "nf-multiscale-wide", "NAME"}  # and examples
    if script == "study/train":
        assert set(args.runs) <= known
    if script == "study/ablation":
        assert set(args.only or ()) <= ablation.ROWS[args.model][3].keys()


def test_enough_commands_are_found():
    assert {script for script, _ in printed_commands()} >= {*SCRIPTS} - {"study/submission"}


def test_make_targets_in_documents_exist_and_help_lists_them():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    targets = {target for path in DOCUMENTS for target in re.findall(r"`make ([a-z-]+)", path.read_text())}
    assert {"quick", "publish", "test-mutants"} < targets
    for target in targets - {"help", "chromium"}:  # the latter only installs a tool of the tests
        assert f"make {target} " in listed, target
    assert all(len(line) < 100 for line in listed.splitlines())


def make(*words):
    # a make of its own: nothing that this one may have been told, PYTHON for one, reaches it
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "PYTHON"
    }
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, env=environment)


def test_set_up_names_what_is_missing(tmp_path):
    fresh = tmp_path / "checkout"
    fresh.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        (fresh / name).write_text((ROOT / name).read_text())
    done = make("-C", str(fresh), "setup", "BASE_PYTHON=no-such-python")
    assert done.returncode == 2
    assert "Python is missing: install Python 3.10 or newer" in done.stdout + done.stderr
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("-C", str(fresh), "setup", f"BASE_PYTHON={old}")
    assert "Python 3.10 or newer is needed" in done.stdout + done.stderr
    assert not (fresh / ".venv").exists()
    bare = tmp_path / "bare-python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    done = make("-C", str(fresh), "setup", f"PYTHON={bare}")
    assert "lacks packages" in done.stdout + done.stderr


def test_latex_waits_for_another_package_installation(tmp_path):
    """With an apt-get that finds the lock taken twice; nothing else is on the path but what the recipe needs."""
    stubs = {
        "apt-get": f"""
            echo "$@" >>{tmp_path}/calls
            [ "$1" = update ] && [ "$(wc -l <{tmp_path}/calls)" -lt 3 ] && exit 100
            [ "$1" = install ] && cp {tmp_path}/id {tmp_path}/latexmk
            exit 0""",
        "id": "echo 0",
        "sleep": "exit 0",
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{textwrap.dedent(text).strip()}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("sh", "seq", "wc", "cp"):
        (tmp_path / name).symlink_to(shutil.which(name))
    call = [shutil.which("make"), "-s", "latex"]
    done = subprocess.run(call, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["update"] * 3 + ["install"]
    assert "DPkg::Lock::Timeout=120" in calls[-1]
