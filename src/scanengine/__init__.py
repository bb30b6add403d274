"""scanengine: answers scans of one-item-one-code labels.

Is this code ours and unaltered, which item is it, what may this person do with it, did it win: in milliseconds, and
only once. :func:`open` a workspace and call the :class:`Program`.
"""

from scanengine.engine import Decisions
from scanengine.errors import ScanEngineError
from scanengine.model import Answer, Decision, Role, Scene, Status
from scanengine.program import Program
from scanengine.program import open_program as open  # noqa: A004 - the library's door: scanengine.open("shop")
from scanengine.program.scans import Scan

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Decision",
    "Decisions",
    "Program",
    "Role",
    "Scan",
    "ScanEngineError",
    "Scene",
    "Status",
    "__version__",
    "open",
]
