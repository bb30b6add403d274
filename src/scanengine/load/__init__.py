"""Load: many scans at once against a server, every answer checked, and what came of it as data.

`scanengine load` runs it; :mod:`scanengine.load.results` is what is handed to whoever reports.
"""
