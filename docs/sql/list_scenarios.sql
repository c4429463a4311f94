-- Read a page of scenarios by status, the newest first.
-- Sent by vidan.services.scenarios.find.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
SELECT
    s.id,
    s.name,
    s.key,
    s.labels,
    s.task,
    s.source,
    s.params,
    s.queue,
    s.priority,
    s.status,
    s.frames_done,
    s.frames_total,
    (
        SELECT coalesce(sum(g.to_frame - g.from_frame + 1), 0)::bigint
        FROM gaps g
        WHERE g.scenario_id = s.id
    ) AS lost_frames,
    s.source_info,
    s.notes,
    s.attempts,
    s.max_attempts,
    s.crashes,
    s.max_crashes,
    w.name AS worker,
    s.result,
    s.error,
    s.checkpoint,
    s.epoch,
    s.state,
    s.not_before,
    s.created_at,
    s.started_at,
    s.ended_at,
    s.pruned,
    s.time_limit,
    s.soft_time_limit,
    s.parent_id
FROM (
    SELECT s.*
    FROM unnest(CAST(:status AS text[])) AS wanted (status)
    CROSS JOIN LATERAL (
        SELECT *
        FROM scenarios s
        WHERE true
            AND s.task = :task
            AND (s.status, s.id) <= (wanted.status, :edge)
            AND s.status >= wanted.status
        ORDER BY s.status DESC, s.id DESC
        LIMIT :limit
    ) s
) s
LEFT JOIN workers w ON w.id = s.worker_id
ORDER BY s.id DESC
LIMIT :limit;
