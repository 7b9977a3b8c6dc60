"""`python -m protomux_wakeup` is the `protomux-wakeup` command."""

from __future__ import annotations

import sys

from protomux_wakeup.cli import main

sys.exit(main())
