"""The report: one self-contained HTML page and the card of the distilled set, both made from plain data."""
