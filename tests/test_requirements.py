"""Each requirement that must be fulfilled has a test with its number, and the page lists it."""

from __future__ import annotations

import configparser
from pathlib import Path

import list_requirements as page  # setup.cfg puts docs/ on the path
import pytest

ROOT = Path(__file__).parent.parent
MARKS = page.collect(ROOT / "tests")


def test_the_page_is_current() -> None:
    """docs/requirements.rst is what the script makes of the tests as they are now."""
    current = page.PAGE.read_text("utf-8")
    assert current == page.render(MARKS), "stale; run: make requirements"


def test_what_is_promised_is_tested() -> None:
    """Each requirement of the seed or of its next steps has a test."""
    untested = [
        f"{requirement.number}: {requirement.text}"
        for requirement in page.REQUIREMENTS
        if requirement.origin != "goal" and not page.tests_of(requirement, MARKS)
    ]
    assert not untested, "no test bears these numbers:\n" + "\n".join(untested)


def test_marks_name_requirements_that_exist() -> None:
    """A number in a mark that no requirement has is a slip of the pen."""
    unknown = {
        number: ids
        for number, ids in MARKS.items()
        if not any(requirement.covers(number) for requirement in page.REQUIREMENTS)
    }
    assert not unknown


def test_numbers_are_unique() -> None:
    """No number belongs to two requirements."""
    numbers = [r.number for r in page.REQUIREMENTS]
    assert [n for n in numbers if sum(r.covers(n) for r in page.REQUIREMENTS) > 1] == []
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("number", "covered"),
    [("10.1", True), ("10.8", True), ("10.1-10.8", True), ("10.9", False), ("n.f.", False)],
)
def test_a_row_of_numbers_covers_each_of_them(number: str, covered: bool) -> None:
    """A requirement that stands for several numbers is proven by a test that bears any of them."""
    requirement = page.Requirement("10.1-10.8", "Tests.", "seed")
    assert requirement.covers(number) is covered


def test_marks_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """Marks of a file, a class, a function and a parameter each count for what they stand on."""
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "pytestmark = [pytest.mark.requirement('1.1')]\n"
        "@pytest.mark.requirement('1.2')\n"
        "class TestY:\n"
        "    @pytest.mark.requirement('1.3', '1.4')\n"
        "    def test_z(self): ...\n"
        "@pytest.mark.parametrize('a', [pytest.param(1, marks=pytest.mark.requirement('1.5'))])\n"
        "def test_w(a): ...\n"
    )
    assert page.collect(tmp_path, tmp_path) == {
        "1.1": ["test_x.py"],
        "1.2": ["test_x.py::TestY"],
        "1.3": ["test_x.py::TestY::test_z"],
        "1.4": ["test_x.py::TestY::test_z"],
        "1.5": ["test_x.py::test_w"],
    }


def test_a_number_that_is_computed_is_refused(tmp_path: Path) -> None:
    """A mark whose number the script cannot read would be missing from the page without a word."""
    (tmp_path / "test_x.py").write_text("pytestmark = pytest.mark.requirement(NUMBER)\n")
    with pytest.raises(ValueError, match=r"test_x\.py: .* literal string, not NUMBER"):
        page.collect(tmp_path, tmp_path)


def test_a_stale_page_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --check nothing is written, and a stale page ends in 1 and the command that mends it."""
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "requirements.rst")
    assert page.main(["--check"]) == 1
    assert "make requirements" in capsys.readouterr().err
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0


@pytest.mark.requirement("10.1-10.8")
def test_coverage_above_80_percent_is_enforced() -> None:
    """The suite fails when less than the promised share of both packages is covered."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    assert setup.getfloat("coverage:report", "fail_under") > 80
    assert setup.getboolean("coverage:run", "branch")
    assert setup["coverage:run"]["source"].split() == ["statemachine", "tunnel"]
