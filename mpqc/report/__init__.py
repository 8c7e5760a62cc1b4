"""The report of a compile: what was chosen and why, as JSON, as text for a terminal and as one self-contained HTML page."""
