"""The house: how large its rooms, modules and functions are, and how much of it is typed."""

import ast
import io
import statistics
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path
    for folder in ("pyrovae", "models", "guides")
    for path in (ROOT / folder).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)
)
LONGEST_MODULE, MEDIAN_MODULE, LONGEST_FUNCTION = 350, 150, 50
ANY_PER_100_LINES = 1.9


def code_lines(source):
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings |= set(range(first.lineno, first.end_lineno + 1))
    lines = set()
    nothing = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def functions(source):
    """Name and number of lines of code of every function, signature included, inner functions counted in."""
    lines = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, sum(node.lineno <= line <= node.end_lineno for line in lines)


def anys(source):
    """How often `Any` is written, imports aside."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(source)))


def test_modules_are_small():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: size for name, size in sizes.items() if size > LONGEST_MODULE}
    assert (
        statistics.median(size for name, size in sizes.items() if not name.endswith("__init__.py"))
        <= MEDIAN_MODULE
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path):
    assert not {name: size for name, size in functions(path.read_text()) if size > LONGEST_FUNCTION}


def test_few_things_may_be_anything():
    sources = [path.read_text() for path in MODULES]
    share = 100 * sum(map(anys, sources)) / sum(len(code_lines(source)) for source in sources)
    assert share <= ANY_PER_100_LINES


if __name__ == "__main__":
    total, count = 0, 0
    for path in MODULES:
        source = path.read_text()
        own, lines = anys(source), len(code_lines(source))
        total, count = total + lines, count + own
        long = {name: size for name, size in functions(source) if size > LONGEST_FUNCTION}
        name = path.relative_to(ROOT)
        print(
            f"{len(source.splitlines()):5d} lines {own:4d} Any {100 * own / max(1, lines):5.1f}  {name} {long or ''}"
        )
    print(f"{100 * count / total:.2f} Any per 100 lines of code; {total} lines of code")
