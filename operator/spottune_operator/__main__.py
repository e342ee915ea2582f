"""`python -m spottune_operator`."""

import sys

from spottune_operator.main import main

sys.exit(main())
