"""Quarantine: one process with one slot for suspects, while no other worker may take them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from vidan.config import Settings
from vidan.db.session import Database
from vidan.protocol import claims
from vidan.supervisor.post import Post

log = logging.getLogger("vidan.supervisor")

CHECK_SECONDS = 2.0
"""Interval, in seconds, at which a supervisor of workers with several slots looks for suspects."""
RETRY_SECONDS = 15.0
"""The same interval, in seconds, after an error: each attempt may take seconds."""
AHEAD_SECONDS = 5.0
"""The quarantine process is started, or kept, for suspects due within this many seconds."""


class Quarantine:
    """Keeps the quarantine process of one supervisor: `post` is its place while there is one.

    A worker with one slot takes suspects itself: beside it no such process is needed.
    """

    def __init__(self, settings: Settings, database: Database, posts: Sequence[Post]) -> None:
        self.post: Post | None = None
        self._settings = settings
        self._database = database
        self._posts = posts
        self._next_check = 0.0

    def check_now(self) -> None:
        """Look for suspects in the next step: they wait for a new process."""
        self._next_check = 0.0

    def keep(self) -> None:
        """Start the process if suspects are due, ask it to end if none are: one step."""
        posts = self._able_posts()
        model = posts[0].options
        one_slot = any(post.count() == 1 for post in posts)
        if (one_slot and self.post is None) or time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + CHECK_SECONDS
        try:
            wanted = not one_slot and self._suspects_due()
        except Exception as error:
            log.warning("can't ask for suspects: %s", error)
            self._next_check = time.monotonic() + RETRY_SECONDS
            return
        if wanted and self.post is None:
            self.post = Post(
                replace(model, name=f"{model.name}-quarantine", slots=1, quarantine=True)
            )
        if self.post is not None:
            self._adjust(self.post, wanted=wanted, device=model.device)

    def _adjust(self, post: Post, *, wanted: bool, device: str) -> None:
        if post.options.device != device:
            post.ask_to_end()  # its device was drained: it makes room for a process on another one
            if post.child is None:
                self.post = None
        elif wanted:
            post.start(self._settings)
        elif post.child is None:
            if not post.retired:
                self.post = None
        elif post.idle:
            post.ask_to_end()

    def _able_posts(self) -> list[Post]:
        """Return the posts that are not retired; if some of them are not given up, only these."""
        posts = [post for post in self._posts if not post.retired]
        return [post for post in posts if not post.given_up] or posts

    def _suspects_due(self) -> bool:
        """Return whether suspects are due that the supervisor's workers could run."""
        newest = [post.worker_id for post in self._posts]
        registered = [worker_id for worker_id in newest if worker_id is not None]
        with self._database.begin() as connection:
            return claims.suspects_due(connection, registered, within=AHEAD_SECONDS)
