"""Each fault in docs/faults/ has a test that shows what holds in it, and the page lists both."""

from __future__ import annotations

from pathlib import Path

import list_faults as page  # setup.cfg puts docs/ on the path
import pytest

ROOT = Path(__file__).parent.parent
FAULTS = page.read(page.FOLDER)
MARKS = page.collect(ROOT / "tests")


def test_the_page_is_current() -> None:
    """docs/faults.rst is what the script makes of the faults and tests as they are now."""
    assert page.PAGE.read_text("utf-8") == page.render(FAULTS, MARKS), "stale; run: make faults"


def test_every_fault_is_tested() -> None:
    """Nothing is promised about a fault that no test shows."""
    untested = [f"{fault.area}.ini: {fault.slug}" for fault in FAULTS if fault.slug not in MARKS]
    assert not untested, "no test bears these marks:\n" + "\n".join(untested)


def test_marks_name_faults_that_exist() -> None:
    """A mark that names no fault is a slip of the pen, or a promise that is made nowhere."""
    known = {fault.slug for fault in FAULTS}
    assert {slug: ids for slug, ids in MARKS.items() if slug not in known} == {}


def test_a_table_for_each_area(tmp_path: Path) -> None:
    """A file becomes a table with its name as title; texts may go over lines and have any mark."""
    (tmp_path / "b-network.ini").write_text(
        "[reset]\nfault = It is\n    reset.\npromise = 100 % back: ``x``.\n"
        "[fin]\nfault = It ends.\npromise = Back.\n"
    )
    (tmp_path / "a.ini").write_text("[own]\nfault = Ours.\npromise = None.\n")
    faults = page.read(tmp_path)
    assert [fault.slug for fault in faults] == ["own", "reset", "fin"]
    text = page.render(faults, {"reset": ["test_x.py::test_y", "test_z.py"]})
    assert "\nA\n-\n" in text
    assert "\nB network\n---------\n" in text
    assert (
        "   * - It is reset.\n     - 100 % back: ``x``.\n"
        "     - * ``test_x.py::test_y``\n       * ``test_z.py``\n" in text
    )
    assert "   * - It ends.\n     - Back.\n     - none yet\n" in text


@pytest.mark.parametrize(
    "text",
    [
        "[x]\nfault = It breaks.\n",
        "[x]\nfault = It breaks.\npromise =\n",
        "[x]\nfault = It breaks.\npromise = It mends.\nprice = 3\n",
        "[own]\nfault = It breaks.\npromise = It mends.\n",
    ],
)
def test_a_row_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    """A fault without promise, with an entry too many, or with another's name is told by file."""
    (tmp_path / "a.ini").write_text("[own]\nfault = Ours.\npromise = None.\n")
    (tmp_path / "b.ini").write_text(text)
    with pytest.raises(ValueError, match=r"b\.ini \[(x|own)\]: (wants|is in a\.ini)"):
        page.read(tmp_path)


def test_marks_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """Marks of a file, a class, a function and a parameter each count for what they stand on."""
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "pytestmark = pytest.mark.fault('a')\n"
        "@pytest.mark.fault('b')\n"
        "class TestY:\n"
        "    @pytest.mark.fault('c', 'a')\n"
        "    @pytest.mark.requirement('1.1')\n"
        "    def test_z(self): ...\n"
        "@pytest.mark.parametrize('n', [pytest.param(1, marks=pytest.mark.fault('d'))])\n"
        "def test_w(n): ...\n"
    )
    assert page.collect(tmp_path, tmp_path) == {
        "a": ["test_x.py", "test_x.py::TestY::test_z"],
        "b": ["test_x.py::TestY"],
        "c": ["test_x.py::TestY::test_z"],
        "d": ["test_x.py::test_w"],
    }


def test_a_name_that_is_computed_is_refused(tmp_path: Path) -> None:
    """A mark whose fault the script cannot read would be missing from the page without a word."""
    (tmp_path / "test_x.py").write_text("pytestmark = pytest.mark.fault(NAME)\n")
    with pytest.raises(ValueError, match=r"test_x\.py: .* literal string, not NAME"):
        page.collect(tmp_path, tmp_path)


def test_a_stale_page_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --check nothing is written, and a stale page ends in 1 and the command that mends it."""
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "faults.rst")
    assert page.main(["--check"]) == 1
    assert "make faults" in capsys.readouterr().err
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0
