from vidan.domain.detection import Detection as Detection
from vidan.domain.retry import Retry as Retry
from vidan.domain.schedule import Schedule as Schedule
from vidan.errors import Reject as Reject
from vidan.errors import TimeLimitExceeded as TimeLimitExceeded
from vidan.run.run import Run as Run
from vidan.tasks.app import Vidan as Vidan
from vidan.tasks.calls import ScenarioHandle as ScenarioHandle
from vidan.tasks.signature import Signature as Signature

__version__: str
