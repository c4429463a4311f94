-- End runs as completed, inactive or failed.
-- Sent by vidan.protocol.lifecycle.finish.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH rows AS (
    SELECT s.*, f.*
    FROM (
        SELECT *
        FROM jsonb_to_recordset(CAST(:fences AS jsonb)) AS r (
            scenario_id bigint, fence_epoch bigint, fence_worker uuid, new_status text,
            new_result jsonb, new_state jsonb, new_error text, new_reason text, new_trace text
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
            WHEN r.status = 'in_shutdown_processing' THEN CAST('inactive' AS text)
            WHEN r.status = 'init_shutdown' AND r.new_status = 'failed' THEN 'inactive'
            ELSE r.new_status
        END AS to_status,
        coalesce(r.new_error, r.new_reason) AS reason
    FROM rows r
),
moved AS (
    UPDATE scenarios s
    SET
        status = r.to_status,
        worker_id = NULL,
        result = CASE
            WHEN r.to_status = 'completed' THEN nullif(r.new_result, 'null')
            ELSE s.result
        END,
        state = CASE WHEN jsonb_typeof(r.new_state) = 'object' THEN r.new_state ELSE s.state END,
        error = CASE
            WHEN r.to_status = 'completed' THEN NULL
            ELSE coalesce(r.new_error, s.error)
        END,
        traceback = CASE
            WHEN r.to_status = 'completed' THEN NULL
            WHEN r.new_error IS NULL THEN s.traceback
            ELSE r.new_trace
        END,
        announce_at = NULL,
        ended_at = now()
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
    RETURNING s.id, r.status AS from_status, s.status AS to_status, r.reason, s.followed
),
logged AS (
    INSERT INTO transitions (scenario_id, from_status, to_status, reason, actor)
    SELECT id, from_status, to_status, reason, CAST(:actor AS text)
    FROM moved
)
SELECT *
FROM moved
ORDER BY id;
