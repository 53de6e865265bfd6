"""The frame of the report: how it looks on a screen, a phone and on paper, in light and dark."""

TITLE = "Attention Round and its rivals"
LEAD = (
    "Post-training quantization of image classifiers, side by side. Every number is a mean over the seeds of committed "
    "runs, ± the standard deviation; each table says below itself where its numbers come from."
)
# Nothing may be fetched, from anywhere: the browser holds the page to it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1c1c1c; --soft: #636363; --line: #dcdcdc; --tint: #f5f6f7; --link: #0060a0; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e6e6e6; --soft: #a0a4a8; --line: #383c41; --tint: #1f2226; --link: #7cc0ee;
    --bad: #ff8a80; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 78rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
h1 { margin: 0; font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -0.02em; }
h2 { margin: 0 0 1rem; font-size: 1.35rem; line-height: 1.3; }
.lead { max-width: 46rem; margin: 0.8rem 0; font-size: 1.08rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 1.2rem 0; padding: 0; list-style: none; }
.facts li { padding: 0.1rem 0.7rem; border: 1px solid var(--line); border-radius: 1rem; background: var(--tint);
  color: var(--soft); font-size: 0.85rem; }
nav { margin: 1.8rem 0; padding: 0.9rem 1.2rem; border-radius: 0.5rem; background: var(--tint); }
nav h2 { margin: 0 0 0.3rem; font-size: 1rem; }
nav ol { margin: 0; padding-left: 1.4rem; columns: 24rem; column-gap: 2.5rem; }
nav li { break-inside: avoid; padding: 0.12rem 0; }
section { margin-top: 3.2rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }
.name { margin: 0; font: 0.82rem ui-monospace, Menlo, Consolas, monospace; }
.name a { color: var(--soft); text-decoration: none; }
figure { margin: 1rem 0 1.4rem; padding: 0.9rem; overflow-x: auto; border: 1px solid var(--line);
  border-radius: 0.5rem; background: #fff; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; min-width: 100%; font-size: 0.86rem; line-height: 1.35; }
th, td { padding: 0.2rem 0.6rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; white-space: normal; font-weight: 600; }
tbody th { position: sticky; left: 0; background: var(--paper); font-weight: 500; }
tbody tr.first > * { border-top: 1px solid var(--line); }
tbody tr:first-child > * { border-top: 0; }
tbody tr:hover > * { background: var(--tint); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.spread, .published > * { color: var(--soft); }
.spread { font-size: 0.92em; }
.published > * { font-style: italic; }
.failed > td { text-align: left; white-space: normal; color: var(--bad); }
section > ul { margin: 0.8rem 0; padding-left: 1.1rem; color: var(--soft); font-size: 0.85rem; }
code { font: 0.92em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
footer { margin-top: 4rem; color: var(--soft); font-size: 0.85rem; }
@media (max-width: 40rem) {
  body { padding: 1.4rem 0.9rem 3rem; }
  figure { padding: 0.5rem; }
  figure img { min-width: 34rem; max-width: none; width: 34rem; }
  table { font-size: 0.82rem; }
  th, td { padding: 0.2rem 0.45rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --tint: #fff; --link: #000; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  tr, figure { break-inside: avoid; }
  h2, .name { break-after: avoid; }
  h1 { font-size: 20pt; }
  h2 { font-size: 13pt; }
  .lead { font-size: 10.5pt; }
  section { margin-top: 1.5rem; }
  figure { border: 0; padding: 0; }
  .table { overflow: visible; }
  table { font-size: 6.6pt; }
  th, td { padding: 0.1rem 0.25rem; white-space: normal; }
  .number { white-space: nowrap; }
  thead .number { white-space: normal; }
}
"""

# Titles become buttons that order the lines; without JavaScript the table stays as it was made.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((title, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const sign = title.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const each of title.parentNode.children) each.removeAttribute("aria-sort");
      title.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const text = line => line.cells[column] ? line.cells[column].textContent : "";
      const compare = (a, b) => {
        const [x, y] = [parseFloat(text(a)), parseFloat(text(b))];
        if (isNaN(x) && isNaN(y)) return sign * text(a).localeCompare(text(b));
        return isNaN(x) ? 1 : isNaN(y) ? -1 : sign * (x - y);
      };
      body.append(...[...body.rows].sort(compare));
      for (const line of body.rows) line.classList.remove("first");
    });
  });
}
"""


def page(facts: str, contents: str, sections: str) -> str:
    """An HTML page around these parts, which are HTML: list items, list items and sections."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{TITLE}</h1>
<p class="lead">{LEAD}</p>
<ul class="facts">
{facts}
</ul>
</header>
<nav aria-labelledby="contents">
<h2 id="contents">Contents</h2>
<ol>
{contents}
</ol>
</nav>
<main>
{sections}
</main>
<footer><code>make report</code> made this page from the tables under results/tables; it needs no other file.</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""
