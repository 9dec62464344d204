"""The house: who imports whom, what must not exist, what must be importable."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

STOREYS = [  # every arrow runs down
    {"datasets", "experiment", "figures", "multiscale", "tables"},
    {"quality"},
    {"extras"},
    {"a3_vae_template", "a3_gan_template", "a3_nf_template"},
    {"beyond", "contestants"},
    {"evaluate", "bench", "standard_runs"},
    {"seeds"},
]
LEVEL = {name: i for i, names in enumerate(STOREYS) for name in names}
SOURCES = sorted([*ROOT.glob("code/**/*.py"), *ROOT.glob("datasets/*.py")])


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name in ("code", "beyond")], ids=lambda p: p.name)
def test_imports_run_downwards(path):
    mine = LEVEL["beyond" if path.parent.name == "beyond" else path.stem]
    ours = {name.split(".")[0] for name in imports(path)} & LEVEL.keys() - {path.stem, path.parent.name}
    assert all(LEVEL[name] < mine for name in ours), ours
    if mine == 0:
        assert not ours


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_torch_distributions(path):
    tree = ast.parse(path.read_text())
    assert not any(name.startswith("torch.distributions") for name in imports(path))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Attribute) and node.attr == "distributions")
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            assert "distributions" not in [alias.name for alias in node.names]


def test_code_folder_does_not_shadow_the_standard_library():
    assert not (ROOT / "code" / "__init__.py").exists()
    call = "import pdb, code; print(code.__file__)"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout


def test_our_datasets_wins_over_an_installed_package(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise ImportError('the wrong datasets')")
    paths = f"import sys; sys.path.append({str(ROOT / 'code')!r})"
    call = f"{paths}; import a3_vae_template, datasets; print(datasets.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", call],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "datasets" / "__init__.py")


@pytest.mark.parametrize("path", sorted(ROOT.glob("code/a3_*_template.py")), ids=lambda p: p.name)
def test_scripts_are_one_story_of_bounded_length(path):
    assert 250 <= len(path.read_text().splitlines()) <= 400


def test_no_paths_of_one_machine_and_no_stray_files():
    for path in [*SOURCES, ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text()
        assert not any(f"/{name}/" in text for name in ("home", "root", "Users", "work")), path
