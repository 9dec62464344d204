"""The ZIP to hand in: python report/submission.py LASTNAME [--force]"""

import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {".git", "data", "runs", "build", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"}
FORMS = {".py", ".md", ".txt", ".toml", ".tex", ".bib", ".sty", ".json", ".pdf", ".png", ".gif", ""}


def main():
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    name = names[0].strip().lower() if names else ""
    if not re.fullmatch(r"[\w-]+", name):
        sys.exit("say who you are: make submission NAME=lastname")
    author = (ROOT / "report" / "author.tex").read_text()
    if "Example" in author and "--force" not in sys.argv:
        sys.exit("report/author.tex is still the example: write your name and number into it (or add FORCE=1)")
    if not (ROOT / "report" / "report.pdf").exists():
        sys.exit("report/report.pdf is missing: make report")
    target = ROOT / f"{name}_assignment3.zip"
    environments = {path.parent.name for path in ROOT.glob("*/pyvenv.cfg")}  # .venv, or whatever its name is
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(ROOT.rglob("*")):
            inside = path.relative_to(ROOT)
            if path.is_file() and not (LEFT_OUT | environments) & set(inside.parts) and path.suffix in FORMS:
                archive.write(path, Path(target.stem) / inside)
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
