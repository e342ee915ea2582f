"""Start of the agent process: settings, logs, signals."""

from __future__ import annotations

import os
import signal
import sys
import threading

from spottune_agent import health, log
from spottune_agent.settings import BadSettings, Settings
from spottune_agent.watch import Agent

_ENDING = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit code 0, or 2 if the settings are wrong."""
    try:
        settings = Settings.from_environ(os.environ)
    except BadSettings as error:
        sys.stderr.write(f"{error}\n")
        return 2
    log.configure(settings.log_level, node=settings.node)
    # Blocked before any thread starts and waited for here: a handler could run while its own thread holds the lock it needs.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    agent = Agent(settings)
    server = health.serve(settings.health_port, agent.health) if settings.health_port else None
    running = threading.Thread(target=agent.run, name="agent")
    running.start()
    signal.sigwait(_ENDING)
    agent.stop()
    running.join()
    if server is not None:
        server.shutdown()
    return 0
