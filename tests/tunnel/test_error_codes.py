from __future__ import annotations

import list_errors  # setup.cfg puts docs/ on the path
import pytest

from tunnel.error_codes import ERROR_CODES, TunnelErrorCategory

RESERVED = {"TUNNEL_008", "TUNNEL_015", "TUNNEL_017", "TUNNEL_018"}


@pytest.mark.requirement("2.1")
def test_the_categories_are_those_of_the_requirement() -> None:
    """An error is of one of six categories."""
    assert [category.value for category in TunnelErrorCategory] == [
        "network",
        "authentication",
        "configuration",
        "server",
        "protocol",
        "unknown",
    ]


def test_the_numbers_have_no_gap() -> None:
    """The codes count from 001 on without a gap; 999 is for what is unknown."""
    numbers = [int(code.removeprefix("TUNNEL_")) for code in ERROR_CODES]
    assert numbers == [*range(1, len(numbers)), 999]
    assert all(code == row.code for code, row in ERROR_CODES.items())


def test_the_table_cannot_be_changed() -> None:
    """A program cannot give a code another meaning."""
    with pytest.raises(TypeError):
        ERROR_CODES["TUNNEL_001"] = ERROR_CODES["TUNNEL_002"]  # type: ignore[index]


@pytest.mark.requirement("2.1")
@pytest.mark.parametrize(
    ("category", "numbers"),
    [
        ("network", "001 006 007 011 012 014 019 020 021 022 023 029 033"),
        ("authentication", "002 003 013 017"),
        ("configuration", "010 026 028 030 031 034 036 037 038"),
        ("server", "004 005 018 032 039"),
        ("protocol", "008 009 015 016 024 025 027 035"),
        ("unknown", "999"),
    ],
)
def test_each_code_has_its_category(category: str, numbers: str) -> None:
    """A code's category never changes either."""
    found = [code[-3:] for code, row in ERROR_CODES.items() if row.category.value == category]
    assert found == numbers.split()


@pytest.mark.requirement("2.2", "2.3")
@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_code_speaks_to_people(code: str) -> None:
    """Each code has a title, a sentence for people and, if anything raises it, a suggestion."""
    row = ERROR_CODES[code]
    assert row.title
    assert row.user_message.endswith(".")
    assert code in RESERVED or (row.suggestion or "").endswith(".")


@pytest.mark.requirement("2.10")
def test_every_code_leads_to_its_documentation() -> None:
    """The page has one section with an anchor for each code."""
    page = list_errors.PAGE.read_text("utf-8")
    for row in ERROR_CODES.values():
        assert page.count(f".. _{row.anchor}:\n") == 1
        assert page.count(f"\n{row.code}: {row.title}\n") == 1


def test_the_documentation_is_current() -> None:
    """docs/errors.rst is what the table gives today; if not: make errors."""
    assert list_errors.PAGE.read_text("utf-8") == list_errors.page()


def test_only_reserved_codes_have_no_class() -> None:
    """Every code has exactly one class, but for the four that nothing here can raise."""
    classes = list_errors.error_classes()
    assert set(ERROR_CODES) - set(classes) == RESERVED
    assert {code: found for code, found in classes.items() if len(found) != 1} == {}


def test_checking_changes_nothing(tmp_path, monkeypatch, capsys) -> None:
    """With --check a stale page is only reported; without, it is written."""
    monkeypatch.setattr(list_errors, "PAGE", tmp_path / "errors.rst")
    assert list_errors.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert list_errors.main([]) == 0
    assert list_errors.main(["--check"]) == 0
