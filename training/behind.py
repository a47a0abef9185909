"""Behind: calls made in one background thread, in order, while the program goes on."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Any

WAITING = 2  # calls that wait at most: what they hold is memory


class Behind:
    """With Behind(call) as later: later(...) returns as soon as fewer than WAITING calls wait.

    The first error of a call is raised by the next later(...) or at the end of the block, and nothing is called after
    it. All that was asked for is done when the block ends, also where it ends by an error or Ctrl-C.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self.call, self.error = call, None
        self.queue: Queue = Queue(WAITING)
        self.thread = Thread(target=self._run, name="behind")

    def __enter__(self) -> Behind:
        self.thread.start()
        return self

    def __call__(self, *args: Any) -> None:
        if self.error is not None:
            raise self.error
        self.queue.put(args)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.queue.put(None)
        self.thread.join()
        if self.error is not None and error is None:
            raise self.error

    def _run(self) -> None:
        while (args := self.queue.get()) is not None:
            try:
                if self.error is None:
                    self.call(*args)
            except BaseException as error:  # raised where it can be seen, in the thread that asked
                self.error = error
