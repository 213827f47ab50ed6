"""A table with published and measured side by side, as HTML for a screen and as LaTeX for a page; no arithmetic."""

import html
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from fer_openset.labels import AMBIGUOUS, BASIC, CONTEMPT
from fer_openset.methods import ORACLE

DASH = "–"
# As the paper prints them; Table 3 goes by dataset.
SHORT = {name: name[:3].title() + "." for name in (*BASIC, CONTEMPT, AMBIGUOUS)} | {"mean": "Mean"}
LONG = {"rafdb_compound": "Compound", "affectnet": "AffectNet"}
TEX = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "±": r"$\pm$", DASH: "--", "✓": r"$\surd$"})
RULE = ' style="border-{}: 3px double #888"'


@dataclass(frozen=True)
class Shape:
    """One table to be shown, with the sentences below it.

    cells: text by row and column; a column is a pair (head, `published`, `measured` or ""). Rows have one name, or one
    for each named level of the index. best: bool of the same shape. apart: rows and heads with a rule before them.
    """

    title: str
    cells: pd.DataFrame
    best: pd.DataFrame
    note: str
    apart: tuple = ("mean", ORACLE)

    @property
    def row_heads(self):
        """What stands above the names of the rows."""
        return [name or "" for name in self.cells.index.names]

    @property
    def heads(self):
        """[(head, number of its columns)] in order."""
        return [(head, len(list(group))) for head, group in groupby(head for head, _ in self.cells.columns)]

    @property
    def kinds(self):
        """The second line of the head, [] where it would be empty."""
        kinds = [kind for _, kind in self.cells.columns]
        return kinds if any(kinds) else []

    def rows(self):
        """(names, [(head, text, best)]) of each row."""
        for n, key in enumerate(self.cells.index):
            line = zip(self.cells.columns, self.cells.iloc[n], self.best.iloc[n], strict=True)
            yield key if isinstance(key, tuple) else (key,), [(head, text, best) for (head, _), text, best in line]


def as_html(shape):
    """Title, table and note; short forms and intervals below their number, so that twelve columns fit a page."""

    def cell(tag, text, head="", span=1):
        rule = RULE.format("left") if head in shape.apart else ""
        return f"<{tag}{rule}" + (f' colspan="{span}"' if span > 1 else "") + f">{text}</{tag}>"

    def names(words):
        return "".join(cell("th", html.escape(LONG.get(word, word))) for word in words)

    heads = [(head, html.escape(head).replace("+", "+<br>"), n) for head, n in shape.heads]
    lines = [names(shape.row_heads) + "".join(cell("th", words, head, n) for head, words, n in heads)]
    if shape.kinds:
        every = [head for head, n in shape.heads for _ in range(n)]
        second = (cell("th", f"{kind[:4]}.", head) for head, kind in zip(every, shape.kinds, strict=True))
        lines.append(names([""] * len(shape.row_heads)) + "".join(second))
    head = "".join(f"<tr>{line}</tr>" for line in lines)
    body = ""
    for row, line in shape.rows():
        rule = RULE.format("top") if row[0] in shape.apart else ""
        body += f"<tr{rule}>{names(row)}" + "".join(cell("td", _html(t, b), h) for h, t, b in line) + "</tr>\n"
    table = f'<table class="dataframe dense"><thead>{head}</thead>\n<tbody>{body}</tbody></table>'
    return f"<h4>{html.escape(shape.title)}</h4>\n{table}\n<p><small>{html.escape(shape.note)}</small></p>"


def _html(text, best):
    number, rest = _parts(html.escape(text))
    number = f"<b>{number}</b>" if best else number
    return f"{number}<br><small>{rest.replace(', ', ',&nbsp;')}</small>" if rest else number


def _parts(text):
    """`0.649 [0.635, 0.661]` as number and `[.635, .661]`: without leading zeros twelve columns fit a page."""
    number, _, rest = text.partition(" ")
    return number, rest.replace("0.", ".")


def as_latex(shape):
    """A `table*` of plain LaTeX with short names, caption and note; intervals in small type below their number."""
    spec = "l" * len(shape.row_heads)
    spec += "".join(("||" if head in shape.apart else "|") + "r" * n for head, n in shape.heads)
    after = [("||" if head in shape.apart else "|") for head, _ in shape.heads[1:]] + [""]
    heads = [rf"\multicolumn{{{n}}}{{c{rule}}}{{{_tall(head)}}}" if n > 1 else _tall(head)
             for (head, n), rule in zip(shape.heads, after, strict=True)]  # fmt: skip
    lines = [_line([*map(_tex, shape.row_heads), *heads])]
    if shape.kinds:
        lines.append(_line([""] * len(shape.row_heads) + [f"{kind[:4]}." for kind in shape.kinds]))
    lines.append(r"\hline")
    for row, cells in shape.rows():
        lines += [r"\hline"] if row[0] in shape.apart else []
        lines.append(_line([*map(_short, row), *(_cell(text, best) for _, text, best in cells)]))
    begin = [r"\begin{table*}[t]", r"\centering\footnotesize\setlength{\tabcolsep}{2pt}"]
    begin += [rf"\caption{{{_tex(shape.title)}. {_tex(shape.note)}}}", rf"\begin{{tabular}}{{{spec}}}", r"\hline"]
    return "\n".join([*begin, *lines, r"\hline", r"\end{tabular}", r"\end{table*}", ""])


def _line(cells):
    return " & ".join(cells) + r" \\"


def _tex(text):
    return text.translate(TEX)


def _short(text):
    """`surprise+fear` as `Sur.+Fea.`"""
    return "+".join(_tex(SHORT.get(name, LONG.get(name, name))) for name in text.split("+"))


def _tall(text):
    """The same for the head of a column: one name below the other."""
    names = _short(text).replace("+", r"+\\")
    return rf"\shortstack{{{names}}}" if "+" in text else names


def _cell(text, best):
    number, rest = map(_tex, _parts(text.replace(", ", ",")))
    number = rf"\textbf{{{number}}}" if best else number
    return rf"\shortstack[r]{{{number}\\{{\tiny {rest}}}}}" if rest else number
