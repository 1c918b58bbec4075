from typing import NamedTuple
class Overheads(NamedTuple):
    task: float = 1.7e-3
    hop: float = 5.8e-3
