"""Pages that need nothing but themselves: plots and style are in them, and they run no script."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

import hepdask_ml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --quiet: #5f6368; --page: #fff; --rule: #d5d8dc;
  --sb: #d7263d; --b: #3f7fe0; --gap: #e8eaed; --note: #fff4d6; --edge: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --quiet: #a2a8ae; --page: #16181b;
  --rule: #3b4046; --sb: #f0667a; --b: #74a7f5; --gap: #2c3035; --note: #3a3010;
  --edge: #d9a520; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 54rem; margin: 2rem auto; padding: 0 1.25rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; border-bottom: 1px solid var(--rule); }
.quiet, figcaption, caption, footer { color: var(--quiet); font-size: .9rem; }
.lead { font-size: 1.1rem; }
.note { background: var(--note); border-left: 4px solid var(--edge); padding: .6rem 1rem; }
.note p { margin: .2rem 0; } .note ul { margin: .2rem 0; padding-left: 1.2rem; }
figure { margin: 1rem 0; } figure img { width: 100%; max-width: 44rem; height: auto; display: block;
  background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; overflow-wrap: normal; } .words { overflow-wrap: anywhere; }
thead th:first-child { max-width: 12rem; white-space: normal; overflow-wrap: break-word; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .18rem 1rem .18rem 0; text-align: right; vertical-align: top; }
thead th { border-bottom: 1px solid var(--text); font-weight: 600; vertical-align: bottom; }
tbody tr { border-bottom: 1px solid var(--rule); }
th:first-child { text-align: left; font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; } .words td { text-align: left; white-space: normal; }
.mixed td:last-child, .mixed th:last-child { text-align: left; white-space: normal; }
.words thead th { text-align: left; } caption { white-space: nowrap; }
tbody tr.strong { font-weight: 600; }
.bars { width: 100%; } .bars th { white-space: nowrap; }
.bars td.bar { width: 70%; vertical-align: middle; padding: .25rem .75rem .25rem 0; }
.bars span { display: block; height: .5rem; margin: 2px 0; background: var(--gap);
  min-width: 2px; border-radius: 2px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.bars i { display: block; height: 100%; border-radius: 2px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
i.sb { background: var(--sb); } i.b { background: var(--b); } i.gap { background: var(--gap); }
.key i { display: inline-block; width: .8rem; height: .6rem; margin: 0 .3rem 0 .8rem; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--rule); padding-top: .5rem; }
@media print { :root { --text: #000; --quiet: #444; --page: #fff; --rule: #bbb; --sb: #d7263d;
  --b: #3f7fe0; --gap: #ddd; --note: #fff4d6; --edge: #d99a00; }
  body { font-size: 10pt; max-width: none; margin: 0; padding: 0; } h2 { break-after: avoid; }
  figure, tr, .note, .numbers, .words { break-inside: avoid; } figure img { max-width: 13cm; }
  thead { display: table-header-group; } .wide { overflow: visible; } }
"""


def document(title: str, subtitle: str, parts: Iterable[str], made_from: str) -> str:
    """Give a whole page.

    Parameters
    ----------
    title, subtitle : str
        What it is of; the title says what to expect.
    parts : iterable of str
        HTML; those that are empty are left out.
    made_from : str
        A sentence for its foot.

    Returns
    -------
    str
        An HTML document.
    """
    body = [
        f"<header><h1>{escape(title)}</h1><p class='quiet'>{escape(subtitle)}</p></header><main>",
        *parts,
        f"</main><footer>Made by hepdask-ml {escape(hepdask_ml.__version__)} {escape(made_from)}"
        "</footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def lead(text: str) -> str:
    """Give the sentence that says it all.

    Parameters
    ----------
    text : str
        The sentence.

    Returns
    -------
    str
        HTML.
    """
    return f"<p class='lead'>{escape(text)}</p>"


def note(sentence: str, lines: Iterable[str]) -> str:
    """Give a box that cannot be overlooked.

    Parameters
    ----------
    sentence : str
        What it says.
    lines : iterable of str
        What stands below.

    Returns
    -------
    str
        HTML.
    """
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f"<div class='note' role='note'><p><strong>{escape(sentence)}</strong></p>"
        + (f"<ul>{items}</ul>" if items else "")
        + "</div>"
    )


def section(title: str, content: str) -> str:
    """Give a section.

    Parameters
    ----------
    title : str
        Its heading.
    content : str
        HTML.

    Returns
    -------
    str
        HTML; nothing if it has no content.
    """
    if not content:
        return ""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def table(
    header: Sequence[str] | None,
    rows: Sequence[Sequence[str]],
    caption: str | None,
    kind: str = "numbers",
) -> str:
    """Give a table, the first column of which names its rows.

    Parameters
    ----------
    header : sequence of str or None
        Names of the columns, if they have any.
    rows : sequence of sequence of str
        The cells.
    caption : str or None
        What it holds.
    kind : {"numbers", "words", "mixed"}
        What it holds: numbers, words, or numbers with words in the last column.

    Returns
    -------
    str
        HTML.
    """
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in header or ())
    body = "".join(
        f"<tr><th scope='row'>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f"<div class='wide'><table class='{kind}'>"
        + (f"<caption>{escape(caption)}</caption>" if caption else "")
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


def figure(image: bytes, words: str, caption: str) -> str:
    """Give a figure.

    Parameters
    ----------
    image : bytes
        A PNG.
    words : str
        What it shows, for those who cannot see it.
    caption : str
        What stands below.

    Returns
    -------
    str
        HTML.
    """
    data = b64encode(image).decode("ascii")
    return (
        f"<figure><img alt='{escape(words)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def when(seconds: float) -> str:
    """Give a Unix time as people write it.

    Parameters
    ----------
    seconds : float
        The time.

    Returns
    -------
    str
        In UTC.
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
