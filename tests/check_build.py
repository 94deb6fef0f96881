"""Build the sdist, then the wheel from it; install that into a clean environment and look at it from outside."""

import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

LOOK = """
import pathlib, sys
import pyrovae, pyrovae.models, pyrovae.guides
from pyrovae import models, guides
root = pathlib.Path(pyrovae.__file__).parent
assert "site" in str(root) and not (root / "models").is_symlink(), root
assert pathlib.Path(models.__file__).parent == root / "models"
assert pathlib.Path(guides.__file__).parent == root / "guides"
print(pyrovae.__version__)
"""


def run(*command: object, cwd: Path) -> str:
    return subprocess.run(
        [str(c) for c in command], check=True, cwd=cwd, capture_output=True, text=True
    ).stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run(
            sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=ROOT
        )  # the wheel is made from the sdist
        (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
        tracked = run("git", "ls-files", "pyrovae", "models", "guides", cwd=ROOT).split()
        source = {name for name in tracked if name not in ("pyrovae/models", "pyrovae/guides")}
        expected = {name if name.startswith("pyrovae/") else f"pyrovae/{name}" for name in source}
        found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        assert found == expected, f"wheel: unexpected {found - expected}, lacking {expected - found}"
        with tarfile.open(sdist) as archive:
            inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        lacking = {*source, "README.md", "LICENSE", "pyproject.toml"} - inside
        assert not lacking, f"sdist lacks {lacking}"

        # Clean: its own site-packages holds the wheel alone; what it depends on is read from this environment.
        environment = out / "env"
        run(sys.executable, "-m", "venv", environment, cwd=out)
        python = environment / "bin" / "python"
        run(python, "-m", "pip", "install", "--no-deps", wheel, cwd=out)
        site = Path(
            run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=out).strip()
        )
        borrowed = Path(sysconfig.get_paths()["purelib"])
        (site / "borrowed.pth").write_text(f"{borrowed}\n")
        version = run(python, "-c", LOOK, cwd=out).strip()
        print(f"{wheel.name}: {len(found)} files, imports as pyrovae {version} from a clean environment")


if __name__ == "__main__":
    main()
