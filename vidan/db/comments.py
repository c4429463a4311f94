"""What the tables and columns mean, as the database tells it: `\\d+ scenarios` in psql.

A new table or column gets its words here and in its migration.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Table

COMMENTS = {
    "scenarios": """
One durable run of a task, mostly over one video.
id: the number by which users name it
name: a name for people
key: the caller's own id of the work: a repeated create returns this row
labels: tags for people and filters: JSON, text to text
task: the name of the task
source: the video: an absolute path or a URL; null: none, or that of the worker that claims it first
source_bound: whether the first claim wrote its worker's source: only workers with it may claim
needs_source: whether the task needs a source
params: the parameters of the task, JSON
queue: the queue whose workers claim it
priority: higher ones are claimed first
status: where it stands: see docs/protocol.md
not_before: the time from which it may be claimed
announce_at: when it is to be announced to the broker; null: it has been, or need not be
epoch: the number of claims so far; every write of a run names it
worker_id: the registration of the worker that holds it; null: none
attempts: errors that its runs raised, set to zero by progress
max_attempts: with more errors than this it has failed
crashes: deaths of worker processes that are charged to it, set to zero by progress
max_crashes: with more deaths than this it has failed
time_limit: seconds that one run may take before its process is ended; null: as its task says
soft_time_limit: seconds after which one run is told; null: as its task says
checkpoint: the number of the next frame to do: all before it is stored
checkpoint_pts: the timestamp to which a resume seeks, in the source's units
restart_packet: the key frame's packet from which a resume that can't seek decodes; null: it seeks
restart_frame: the number of the frame in restart_packet
state: the task's own state, JSON, stored with the checkpoint
frames_total: how many frames the whole run stores, as far as it is known
frames_done: how many frames are stored
source_info: what a worker found out about the source: size, rate, codec, shape of pixels
notes: what was noticed about the source, a line each
label_names: the labels that its predictions name by their place here, from 0
week: the week (Monday, UTC) of its creation: the partition of its predictions
result: what the task returned, JSON
error: the last error, in one line
traceback: the traceback of the last error, shortened; null: it had none
created_at: when it was created
started_at: when it was active for the first time
ended_at: when it ended; null: it has not
pruned: whether its predictions were dropped with their week
parent_id: the scenario whose follow-up it is, which may be deleted
followed: whether it has rows in followups or group_members, which are handled when it ends
definition: the digest of the definition of its task that has checked it; empty: none has
""",
    "transitions": """
Every change of a scenario's status.
id: the number of the change
scenario_id: the scenario
from_status: the status before; null: it was created
to_status: the status after
reason: why, in one line
actor: who changed it: a worker, an orchestrator, a command
at: when
""",
    "scenario_logs": """
The log lines of scenarios' runs, the newest ones of each.
scenario_id: the scenario
line: its number, from 1; a number that is missing was cut
at: when it was logged
epoch: the run: the epoch of its claim
level: the level of Python's logging: 20 is INFO
logger: the name of the logger
message: the line, shortened
traceback: the traceback, shortened; null: it has none
""",
    "predictions": """
What was found in each frame; a frame without detections is a row too.
scenario_id: the scenario
frame: the number of the frame in the source, from 0
week: the week of the scenario, by which the table is partitioned
time_ms: milliseconds since the first frame of the source
label_ids: the label of each detection: its place in scenarios.label_names, from 0
scores: the score of each detection, 0 to 1
boxes: x1, y1, x2, y2 of each detection in turn, in pixels of the source
track_ids: the track of each detection; null: none has one
extra: the task's own values for the frame, JSON
""",
    "gaps": """
Frames of a source that could not be had.
scenario_id: the scenario
from_frame: the first of them
to_frame: the last of them, included
reason: why, in a few words
""",
    "workers": """
The registrations of worker processes.
id: the id of the registration, also the application_name of its sessions
name: the name of the worker
host: the machine
pid: the process
device: cpu or cuda:N
slots: how many scenarios it runs at once
queues: the queues from which it claims
tasks: the tasks that it can run
versions: the versions of its apps, the built-in one's first: numbers of app_versions
source: the video with which it was started; null: none
quarantine: whether it takes suspects alone
state: idle, busy, draining or gone
desired_state: what users ask of it: running, drained or stopped
desired_slots: how many slots users ask for; null: as many as it was started with
fps: frames per second, measured lately
lease_until: until when it holds its scenarios, unless it renews this
seen_at: its last heartbeat
registered_at: when it registered
""",
    "tasks": """
The tasks, as they hold now.
name: the name of the task
params_schema: the JSON Schema of its parameters
needs_source: whether it needs a source
summary: the first line of its docstring
max_attempts: the default of its scenarios
time_limit: seconds of one run; null: none
soft_time_limit: seconds of one run; null: none
concurrency: most runs at once in the whole cluster; null: no limit
rate_limit: most starts in a time, such as 10/m; null: no limit
rate_next: past starts use up the rate until then
published_at: when a worker published it last
definition: the digest of its definition
version: the version of its app that governs it; null: none has yet
""",
    "task_definitions": """
Each definition of a task that there was.
task: the name of the task
digest: the digest of the definition
params_schema: the JSON Schema of its parameters
needs_source: whether it needs a source
""",
    "app_versions": """
The versions of apps that workers have brought.
number: the number of the version, in the order of registration
app: the app, module:app
digest: the digest of its sources and tasks
rank: the highest one among living workers governs
used: whether a user has chosen it by `vidan tasks use`
governs: whether its schedules hold: the last one that governed
schedules: its schedules, JSON
registered_at: when a worker brought it first
""",
    "task_versions": """
The tasks of each version of an app.
version: the version, a number of app_versions
name: the name of the task
params_schema: the JSON Schema of its parameters
needs_source: whether it needs a source
summary: the first line of its docstring
max_attempts: the default of its scenarios
time_limit: seconds of one run; null: none
soft_time_limit: seconds of one run; null: none
concurrency: most runs at once in the whole cluster; null: no limit
rate_limit: most starts in a time; null: no limit
definition: the digest of its definition
""",
    "followups": """
Scenarios that are created once another one has ended.
id: the number of the follow-up
scenario_id: the scenario whose end it waits for
on_status: the end after which it is created: completed or failed
new: the scenario to create, JSON
""",
    "groups": """
Groups of scenarios with a common callback.
id: the number of the group
pending: how many members have not ended
callback: the scenario to create when all have ended, JSON
callback_id: the scenario that was created then
created_at: when the group was created
""",
    "group_members": """
The members of groups.
group_id: the group
place: the place of the member in its group, from 0
scenario_id: the scenario
ended: whether it has ended
""",
    "schedules": """
What is created by the clock.
name: the name of the schedule
app: the app whose workers publish it
task: the task of its scenarios
cron: the times, as in cron
timezone: the zone of these times
params: the parameters of its scenarios, JSON
source: the source of its scenarios
queue: the queue of its scenarios
priority: the priority of its scenarios
catch_up: what happens to missed times: skip, latest or all
enabled: whether it is not paused
next_at: when it is due next
last_at: the time for which it last created a scenario
last_id: the scenario that it created last
error: why the last scenario could not be created
""",
    "dead_letters": """
Messages that could not be used.
id: the number of the letter
topic: the topic of the message
partition: its partition
offset: its offset
message_at: its timestamp
digest: the digest of its bytes: an embedded broker starts again at offset 0
key: its key
payload: its bytes
error: why it could not be used
received_at: when it was received
""",
    "acknowledged": """
Failures that people have seen, as they were at that time.
failure: the kind of the failure
id: the id of the failed thing
at: when it failed
""",
}
"""Of each table: what a row is; then a line for each column."""


def add(tables: Iterable[Table]) -> None:
    """Give the tables and their columns their comments."""
    for table in tables:
        said, *lines = COMMENTS.get(table.name, "\n").strip().splitlines() or [""]
        table.comment = said or None
        for line in lines:
            name, _, words = str(line).partition(": ")
            table.columns[name].comment = words
