"""The style sheet of a report: for screens from 320 pixels, and for print; contrast of all text at least 4.5 to 1."""

__all__ = ["COLOURS", "STYLE"]

# Text and background of each kind of block; a test computes their contrast (WCAG 2.2, 1.4.3).
COLOURS: dict[str, tuple[str, str]] = {
    "plain": ("#1c1c1c", "#ffffff"),
    "fail": ("#7a0c0c", "#fdeaea"),
    "warn": ("#5a3b00", "#fff3d1"),
    "pass": ("#0c4a26", "#e6f4ea"),
    "note": ("#1d3b66", "#e9f0fa"),
    "missing": ("#474747", "#f2f2f2"),
    "link": ("#0a4c99", "#ffffff"),
    "head": ("#1c1c1c", "#eef1f4"),
    "quiet": ("#545454", "#ffffff"),
}


def _kinds() -> str:
    lines = []
    for kind in ("fail", "warn", "pass", "note", "missing"):
        text, back = COLOURS[kind]
        lines.append(f".{kind} {{ color: {text}; background: {back}; border-left: 0.35rem solid {text}; }}")
    return "\n".join(lines)


STYLE = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
html {{ font-size: 100%; -webkit-text-size-adjust: 100%; }}
body {{ margin: 0 auto; max-width: 64rem; padding: 1rem 1.25rem 3rem; color: {COLOURS["plain"][0]};
  background: {COLOURS["plain"][1]}; font: 1rem/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 0.25rem 0 0.75rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; line-height: 1.3; margin: 2.25rem 0 0.5rem; padding-top: 0.5rem;
  border-top: 2px solid #c9d0d6; }}
h3 {{ font-size: 1.05rem; margin: 1.25rem 0 0.25rem; }}
h4 {{ font-size: 1rem; font-style: italic; margin: 1rem 0 0.25rem; }}
section:first-of-type h2 {{ margin-top: 0.5rem; border-top: 0; padding-top: 0; }}
p, ul {{ margin: 0.5rem 0; max-width: 50rem; }}
a {{ color: {COLOURS["link"][0]}; }}
a:focus-visible, .scroll:focus-visible {{ outline: 3px solid {COLOURS["link"][0]}; outline-offset: 2px; }}
{_kinds()}
.fail, .warn, .pass, .note, .missing {{ padding: 0.4rem 0.7rem; }}
p.banner {{ font-size: 1.25rem; font-weight: 700; padding: 0.7rem 0.9rem; max-width: none; }}
p.statement {{ font-weight: 700; margin: 0.75rem 0 0; max-width: none; }}
.scroll {{ overflow-x: auto; margin: 0.75rem 0 1rem; max-width: 100%; }}
table {{ border-collapse: collapse; min-width: min(100%, 30rem); font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }}
table.prose {{ width: 100%; }}
caption {{ text-align: left; font-weight: 600; padding: 0 0 0.3rem; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.3rem 0.6rem; border-bottom: 1px solid #d5dade; }}
thead th {{ background: {COLOURS["head"][1]}; color: {COLOURS["head"][0]}; border-bottom: 2px solid #9aa5ad; }}
tbody th {{ font-weight: 600; }}
td.number, thead th.number {{ text-align: right; }}
td.number {{ white-space: nowrap; }}
.words {{ white-space: pre-line; overflow-wrap: anywhere; }}
td .words, th .words {{ overflow-wrap: break-word; }}
td.hash {{ font-family: ui-monospace, "Liberation Mono", monospace; font-size: 0.8rem; overflow-wrap: anywhere; }}
td.hash .words {{ overflow-wrap: anywhere; }}
figure {{ margin: 1rem 0 1.25rem; }}
figure img {{ display: block; max-width: 100%; height: auto; }}
figcaption {{ font-size: 0.9rem; color: {COLOURS["quiet"][0]}; max-width: 50rem; }}
nav ul {{ columns: 2 18rem; list-style: none; padding: 0; max-width: none; }}
nav li {{ padding: 0.15rem 0; break-inside: avoid; }}
@media (max-width: 40rem) {{
  body {{ padding: 0.75rem 0.75rem 2rem; }}
  h1 {{ font-size: 1.25rem; }}
  h2 {{ font-size: 1.125rem; }}
  p.banner {{ font-size: 1.125rem; }}
  table.prose, table.prose tbody, table.prose tr, table.prose th, table.prose td, table.prose caption {{
    display: block; width: 100%; }}
  table.prose thead {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }}
  table.prose tr {{ border-bottom: 2px solid #9aa5ad; padding: 0.3rem 0; }}
  table.prose th, table.prose td {{ border: 0; padding: 0.1rem 0; text-align: left; white-space: normal; }}
  table.prose td:has(.none) {{ display: none; }}
  table.prose td::before {{ content: attr(data-label) ": "; color: {COLOURS["quiet"][0]}; }}
}}
@media print {{
  @page {{ size: A4; margin: 16mm 14mm; }}
  html {{ font-size: 9.5pt; }}
  body {{ max-width: none; padding: 0; }}
  h1 {{ font-size: 16pt; }}
  h2 {{ font-size: 13pt; break-after: avoid; }}
  h3, h4 {{ break-after: avoid; }}
  nav {{ display: none; }}
  p.banner {{ font-size: 13pt; }}
  .fail, .warn, .pass, .note, .missing {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  p.banner, p.statement {{ break-after: avoid; }}
  .scroll {{ overflow: visible; break-inside: avoid; }}
  .scroll.long {{ break-inside: auto; }}
  table {{ font-size: 8pt; width: 100%; }}
  th, td {{ padding: 0.15rem 0.35rem; }}
  thead {{ display: table-header-group; }}
  tr, figure {{ break-inside: avoid; }}
  tbody tr:nth-child(-n+2) {{ break-before: avoid; }}
  figure img {{ max-height: 215mm; object-fit: contain; object-position: left; }}
  a {{ color: inherit; text-decoration: none; }}
}}
"""
