from __future__ import annotations

import sys

from spottune_agent.main import main

sys.exit(main())
