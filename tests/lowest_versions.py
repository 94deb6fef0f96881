"""The lowest versions that pyproject.toml declares for the package and its tests, as requirements for pip.

Without torch, whose oldest builds for processors alone are on no index of packages: constraints.txt pins it.
"""

import tomllib
from pathlib import Path

OPTIONAL = ("sklearn", "parquet", "processes", "page", "demo", "test")


def requirements():
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(r for name in OPTIONAL for r in project["optional-dependencies"][name]),
    ]
    return sorted({r.replace(">=", "==") for r in declared if not r.startswith(("pyrovae[", "torch>="))})


if __name__ == "__main__":
    print("\n".join(requirements()))
