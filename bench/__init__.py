"""Side-by-side runs: how long things take, and how that grows. `python -m bench --help`."""
