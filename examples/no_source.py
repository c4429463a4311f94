"""A task without a source: any work that has to be done durably and once.

vidan up --app no_source:app                     in this folder, and in another terminal:
vidan scenario create --task no_source.word_count --param text="to be or not" --wait
vidan scenario show 1 --json | jq .result
"""

from __future__ import annotations

from pydantic import BaseModel

from vidan import Run, Vidan

app = Vidan()


class Words(BaseModel):
    """The result: checked, and stored as JSON."""

    words: int
    longest: str


@app.task(source=False, retries=5)
def word_count(run: Run, text: str) -> Words:
    """Count the words of a text."""
    run.log.info("counting the words in %d characters", len(text))
    words = text.split()
    for _ in words:
        run.progress()  # tells that the task makes progress; a stop or a hand-over ends it here
    return Words(words=len(words), longest=max(words, key=len, default=""))
