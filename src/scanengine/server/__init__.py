"""HTTP: translates requests into calls of ``Program`` and its answers into replies. Decides nothing."""

from scanengine.server.app import make_app
from scanengine.server.run import Server, tune_interpreter

__all__ = ["Server", "make_app", "tune_interpreter"]
