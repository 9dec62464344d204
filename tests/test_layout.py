"""The layout: who imports whom, what must not exist, what must be importable."""

import ast
import subprocess
import sys

import pytest

import mutants
from conftest import ROOT, run_program

SOURCES = sorted([*ROOT.glob("code/**/*.py"), *ROOT.glob("datasets/*.py"), *ROOT.glob("report/*.py")])
# what each part may import besides itself
BELOW = {
    "datasets": set(),
    "nets": {"common", "datasets"},
    "common": {"datasets"},
    "scripts": {"nets", "common", "datasets"},
    "beyond": {"scripts", "nets", "common", "datasets"},
    "study": {"beyond", "scripts", "nets", "common", "datasets"},
    "report": {"study", "beyond", "scripts", "nets", "common", "datasets"},
}


def part_of(module):
    """The part that a module belongs to, None for one that is not ours."""
    folder = module.split(".")[0]
    return "scripts" if folder.startswith("a3_") else folder if folder in BELOW else None


def imports(path):
    """Names of the modules that a file imports, with their packages: common.run, datasets.files."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path):
    inside = path.relative_to(ROOT / "code" if (ROOT / "code") in path.parents else ROOT)
    return ".".join(inside.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path):
    mine = part_of(module_name(path))
    assert {part_of(name) for name in imports(path)} - {None, mine} <= BELOW[mine]


def test_nets_need_little():
    used = {name for path in ROOT.glob("code/nets/*.py") for name in imports(path)}
    assert {name for name in used if name.split(".")[0] in ("common", "datasets")} <= {
        "common", "common.distributed", "common.devices", "common.devices.autocast", "datasets.files",
        "datasets.files.UserError",
    }  # fmt: skip


def test_only_the_gan_script_uses_the_quality_metrics():
    users = [path.name for path in ROOT.glob("code/a3_*.py") if "common.quality" in imports(path)]
    assert users == ["a3_gan_template.py"]


def test_no_modules_import_each_other_in_a_cycle():
    modules = {module_name(path): path for path in SOURCES}
    arrows = {name: {other for other in imports(path) if other in modules} - {name} for name, path in modules.items()}
    waiting = set(modules)
    while waiting:
        free = {name for name in waiting if not arrows[name] & waiting}
        assert free, sorted(waiting)
        waiting -= free


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_torch_distributions(path):
    tree = ast.parse(path.read_text())
    assert not any(name.startswith("torch.distributions") for name in imports(path))
    assert not any(isinstance(node, ast.Attribute) and node.attr == "distributions" for node in ast.walk(tree))


def test_code_folder_does_not_shadow_the_standard_library():
    assert not (ROOT / "code" / "__init__.py").exists()
    call = "import pdb, code; print(code.__file__)"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout


def test_our_packages_win_over_installed_ones(tmp_path):
    for name in ("datasets", "common", "nets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the wrong {name}')")
    program = f"import sys\nsys.path[:0] = {[str(ROOT / 'code'), str(tmp_path)]}\n"  # as with PYTHONPATH
    program += "import a3_nf_template, datasets, common\nprint(datasets.__file__, common.__file__)"
    done = run_program(tmp_path, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ROOT / "datasets" / "__init__.py"), str(ROOT / "code/common/__init__.py")]


def test_the_three_scripts_have_the_same_sections_in_the_same_order():
    for path in sorted(ROOT.glob("code/a3_*_template.py")):
        names = [node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")]
        epoch = next(name for name in ("run_epoch", "train") if name in names)
        order = [names.index(name) for name in (epoch, "save_figures", "load", "title", "main", "parse_args")]
        assert order == sorted(order), path.name
        first_class = next(node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
        assert names.index(first_class.name) < order[0]


def test_no_paths_of_one_machine():
    for path in [*SOURCES, ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text()
        assert not any(f"/{name}/" in text for name in ("home", "root", "Users", "work")), path


def test_every_deliberate_fault_still_fits_the_code():
    for name, file, old, new, tests in mutants.FAULTS:
        assert (ROOT / file).read_text().count(old) == 1, name
        assert new != old, name
        assert all((ROOT / "tests" / f"{test}.py").exists() for test in tests), name
