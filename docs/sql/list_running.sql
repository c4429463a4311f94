-- Read the first scenarios that workers hold.
-- Sent by vidan.services.overview.read.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
SELECT
    s.id,
    s.task,
    s.source,
    s.name,
    s.queue,
    s.status,
    s.frames_done,
    s.frames_total,
    CASE
        WHEN jsonb_path_exists(s.source_info, '$.frames_estimated ? (@ >= 0 && @ < 1e15)') THEN CAST(
            CAST(s.source_info ->> 'frames_estimated' AS numeric) AS bigint
        )
    END AS frames_estimated,
    w.name AS worker,
    greatest(0, s.max_attempts - s.attempts) AS retries_left
FROM (
    (
        SELECT id
        FROM scenarios
        WHERE status BETWEEN 'active' AND 'active'
        ORDER BY status, id
        LIMIT :limit
    ) UNION ALL (
        SELECT id
        FROM scenarios
        WHERE status BETWEEN 'in_shutdown_processing' AND 'in_shutdown_processing'
        ORDER BY status, id
        LIMIT :limit
    ) UNION ALL (
        SELECT id
        FROM scenarios
        WHERE status BETWEEN 'init_shutdown' AND 'init_shutdown'
        ORDER BY status, id
        LIMIT :limit
    ) UNION ALL (
        SELECT id
        FROM scenarios
        WHERE status BETWEEN 'init_startup_processing' AND 'init_startup_processing'
        ORDER BY status, id
        LIMIT :limit
    )
) h
JOIN scenarios s ON s.id = h.id
LEFT JOIN workers w ON w.id = s.worker_id
ORDER BY s.id
LIMIT :limit;
