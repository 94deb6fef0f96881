"""A few hundred damaged files of each kind; `make robustness` reads thousands."""

from tests.robustness.fuzzed_files import KINDS, run, table


def test_no_damaged_file_does_anything_but_to_be_refused_or_taken_as_it_is():
    found = run(0, 18 * len(KINDS))
    assert not [r for r in found if r[2].startswith("WRONG")], table(found)
    refused = {kind for _, kind, result, *_ in found if result == "refused"}
    assert refused == {kind.__name__ for kind in KINDS} - {"strange_numbers"} | (
        refused & {"strange_numbers"}
    )
