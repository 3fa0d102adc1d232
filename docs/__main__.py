"""Build the site: write its pages and pictures, let Sphinx make HTML from them, and check every internal link."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from docs import links
from docs.staging import stage

ROOT: Final = Path(__file__).parents[1]
BUILT: Final = ROOT / "build" / "site"
STAGED: Final = ROOT / "build" / "site-pages"
TREES: Final = ROOT / "build" / "site-trees"


def build() -> int:
    """Build the whole site. Return the exit code."""
    for folder in (STAGED, BUILT):
        shutil.rmtree(folder, ignore_errors=True)
    stage(ROOT, STAGED)
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    command += ["--jobs", "auto", "--conf-dir", str(ROOT / "docs"), "--doctree-dir", str(TREES)]
    if code := subprocess.run([*command, str(STAGED), str(BUILT)], cwd=ROOT, check=False).returncode:  # noqa: S603
        return code
    if wrong := [*links.naming(BUILT, str(ROOT)), *links.broken(BUILT)]:
        sys.stderr.write("".join(f"{each}\n" for each in wrong))
        return 1
    sys.stdout.write(f"The site is in {BUILT.relative_to(ROOT)}: open index.html.\n")
    return 0


def main() -> int:
    """Run the command line, which has no options but ``--help``."""
    argparse.ArgumentParser(prog="python -m docs", description=__doc__).parse_args()
    return build()


if __name__ == "__main__":
    sys.exit(main())
