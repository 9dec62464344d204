"""Make the ZIP file to hand in.

    python code/study/submission.py bloggs    bloggs_assignment3.zip, same as `make submission NAME=bloggs`

It contains code, report, docs and tests, but no data, runs, virtual environments or report/models/.
"""

import io
import re
import sys
import zipfile
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]  # code/, and where `datasets` lies
from common import cli
from datasets.files import ROOT, UserError, write_atomically

LEFT_OUT = {Path(name) for name in (".git", "data", "runs", "report/build", "report/models")}
CACHES = {"__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"}  # anywhere
FORMS = {".py", ".md", ".txt", ".toml", ".yml", ".sbatch", ".tex", ".bib", ".sty", ".json", ".pdf", ".png", ".html",
         ".css", ".js", ".pt"}  # fmt: skip
WITHOUT_SUFFIX = {"Makefile", "LICENSE", ".gitignore", "run"}


def main(args):
    name = re.sub(r"[ '.]+", "-", args.name.strip().lower())
    if not name:
        raise UserError("your last name is missing: make submission NAME=lastname")
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"{args.name} cannot be part of a file name: make submission NAME=lastname")
    if "Example" in (ROOT / "report" / "author.tex").read_text() and not args.force:
        raise UserError("report/author.tex is still the example: enter your name and number (or add FORCE=1)")
    author, pdf = (ROOT / "report" / file for file in ("author.tex", "report.pdf"))
    if not pdf.exists():
        raise UserError("report/report.pdf is missing: make report")
    if pdf.stat().st_mtime < author.stat().st_mtime and not args.force:
        raise UserError("report/report.pdf is older than report/author.tex: make report")
    target = ROOT / f"{name}_assignment3.zip"
    left_out = LEFT_OUT | {path.parent.relative_to(ROOT) for path in ROOT.glob("*/pyvenv.cfg")}  # environments
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(ROOT.rglob("*")):
            inside, known = path.relative_to(ROOT), path.suffix in FORMS or path.name in WITHOUT_SUFFIX
            if known and path.is_file() and not CACHES & {*inside.parts} and not left_out & {*inside.parents}:
                archive.write(path, Path(target.stem) / inside)
    write_atomically(target, content.getvalue())
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB")


def parse_args(words=None):
    parser = cli.Parser(__doc__, __file__)
    parser.add_argument("name", nargs="?", default="", metavar="LASTNAME", help="your last name")
    parser.add_argument("--force", action="store_true", help="accept the example in report/author.tex, and an old PDF")
    return parser.parse_args(words)


if __name__ == "__main__":
    cli.start(main, parse_args)
