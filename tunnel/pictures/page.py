"""Pictures as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """\
body { font: 14px Helvetica, Arial, sans-serif; color: #16283a; background: #f5f7fa; margin: 2em }
figure { background: white; border: 1px solid #d5dde6; border-radius: 8px; padding: 1em;
         margin: 0 0 2em; display: inline-block; max-width: 100%; box-sizing: border-box }
figcaption { font-weight: bold; margin-bottom: .6em }
figcaption span { font-weight: normal; display: block }
h1 + p { font-weight: bold; color: #a01c1c }
svg { max-width: 100%; height: auto }
footer { color: #6b7c8f }"""


@dataclass(frozen=True)
class Picture:
    """One picture of a page.

    Attributes:
        caption: What is said above it.
        svg: The picture itself.
        details: What is said below the caption; may be empty.
    """

    caption: str
    svg: str
    details: str = ""


def as_page(
    title: str,
    pictures: Sequence[Picture],
    *,
    notice: str = "",
    footer: str = "",
    refresh: int | None = None,
) -> str:
    """Return a page with some pictures below each other.

    Args:
        title: Its heading.
        pictures: What it shows.
        notice: What a reader has to know before anything else, below the heading.
        footer: A last line.
        refresh: Seconds after which a browser loads the page anew; None: never.
    """
    again = f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh is not None else ""
    figures = "\n".join(
        f"<figure><figcaption>{escape(p.caption)}{_tagged('span', p.details)}</figcaption>\n"
        f"{p.svg}</figure><br>"
        for p in pictures
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{again}'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{_tagged('p', notice)}\n{figures}\n"
        f"<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )


def _tagged(tag: str, text: str) -> str:
    return f"<{tag}>{escape(text)}</{tag}>" if text else ""
