"""HTTP: translates requests into calls of ``Program`` and its answers into replies. Decides nothing."""

from scanengine.server.app import make_app
from scanengine.server.metrics import Metrics
from scanengine.server.run import Server, check_bind, time_to_stop_s, tune_interpreter
from scanengine.server.workers import Place, Supervisor

__all__ = ["Metrics", "Place", "Server", "Supervisor", "check_bind", "make_app", "time_to_stop_s", "tune_interpreter"]
