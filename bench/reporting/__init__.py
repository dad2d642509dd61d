"""The report of kvpool's benchmarks: JSON results in, one HTML page and a table out. bench/report.py runs it."""
