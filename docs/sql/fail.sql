-- Charge an error to a run: it waits for its retry, or has failed.
-- Sent by vidan.protocol.lifecycle.fail.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH rows AS (
    SELECT s.*, f.*
    FROM (
        SELECT *
        FROM jsonb_to_recordset(CAST(:fences AS jsonb)) AS r (
            scenario_id bigint, fence_epoch bigint, fence_worker uuid
        )
        ORDER BY scenario_id
    ) f
    CROSS JOIN LATERAL (
        SELECT s.id, s.status, s.crashes, s.max_crashes, s.attempts, s.max_attempts
        FROM scenarios s
        WHERE s.id = f.scenario_id
            AND s.epoch = f.fence_epoch
            AND s.worker_id IS NOT DISTINCT FROM f.fence_worker
            AND s.status IN (
                'active', 'in_shutdown_processing', 'init_shutdown', 'init_startup_processing'
            )
        FOR NO KEY UPDATE
    ) s
),
target AS (
    SELECT
        r.*,
        CASE
            WHEN r.status IN ('in_shutdown_processing', 'init_shutdown') THEN CAST(
                'inactive' AS text
            )
            WHEN r.attempts >= r.max_attempts THEN 'failed'
            ELSE 'init_startup'
        END AS to_status,
        CAST(:error AS text) AS reason
    FROM rows r
),
moved AS (
    UPDATE scenarios s
    SET
        status = r.to_status,
        worker_id = NULL,
        attempts = s.attempts + 1,
        error = :error,
        traceback = CAST(:trace AS text),
        announce_at = NULL,
        not_before = now() + make_interval(
            secs => coalesce(
                CAST(:delay AS double precision),
                least(300, 2 ^ least(r.attempts, 9)) * (0.5 + random() / 2)
            )
        ),
        ended_at = CASE WHEN r.to_status <> 'init_startup' THEN now() END
    FROM target r
    WHERE s.id = r.id
        AND (r.status, r.to_status) IN (
            ('init_startup', 'inactive'),
            ('init_startup', 'init_startup_processing'),
            ('init_startup_processing', 'active'),
            ('init_startup_processing', 'failed'),
            ('init_startup_processing', 'init_shutdown'),
            ('init_startup_processing', 'init_startup'),
            ('active', 'completed'),
            ('active', 'failed'),
            ('active', 'init_shutdown'),
            ('active', 'init_startup'),
            ('init_shutdown', 'completed'),
            ('init_shutdown', 'in_shutdown_processing'),
            ('init_shutdown', 'inactive'),
            ('in_shutdown_processing', 'inactive'),
            ('inactive', 'init_startup'),
            ('completed', 'init_startup'),
            ('failed', 'init_startup')
        )
    RETURNING
        s.id,
        r.status AS from_status,
        s.status AS to_status,
        r.reason,
        s.followed,
        s.attempts,
        s.max_attempts,
        CAST(extract(epoch FROM s.not_before - now()) AS double precision) AS delay
),
logged AS (
    INSERT INTO transitions (scenario_id, from_status, to_status, reason, actor)
    SELECT id, from_status, to_status, reason, CAST(:actor AS text)
    FROM moved
)
SELECT *
FROM moved
ORDER BY id;
