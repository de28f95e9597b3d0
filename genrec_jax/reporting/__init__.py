"""Reports of results: text tables, charts and HTML pages."""
