"""Tables for papers: LaTeX with the package booktabs."""

import re
from collections.abc import Sequence

ESCAPES = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "[": "{[}",  # after the end of a line it would open an option
    "]": "{]}",
    "*": "{*}",  # the same
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "`": "\\textasciigrave{}",
    "±": "$\\pm$",
    "\N{MULTIPLICATION SIGN}": "$\\times$",
    "\N{GREEK SMALL LETTER SIGMA}": "$\\sigma$",
    "\N{GREEK SMALL LETTER ALPHA}": "$\\alpha$",
    "†": "$\\dagger$",
    "‡": "$\\ddagger$",
    "¹": "$^1$",
    "…": "\\ldots{}",
    "\n": " ",
}
SPECIAL = re.compile("|".join(map(re.escape, ESCAPES)))
MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def text(plain: str, bold: bool = False) -> str:
    r"""Plain text so that LaTeX prints it as it is, minus signs as such.

    >>> print(text("W4_A8 & 5 %"), text("-0.10 ± 0.02", bold=True))
    W4\_A8 \& 5 \% \textbf{$-$0.10 $\pm$ 0.02}
    """
    marked = SPECIAL.sub(lambda found: ESCAPES[found[0]], MINUS.sub("\0", plain)).replace("\0", "$-$")
    return f"\\textbf{{{marked}}}" if bold else marked


def table(
    name: str, caption: str, header: Sequence[str], num_left: int, lines: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    """A table environment of texts that are escaped: the first num_left columns flush left, the others flush right."""
    columns = "l" * num_left + "r" * (len(header) - num_left)
    body = [" & ".join(line) + r" \\" for line in (header, *lines)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip\footnotesize\raggedright",
            *(f"{note}\n" for note in notes),
            r"\end{table}",
            "",
        ]
    )
