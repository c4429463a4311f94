-- Read which of the scenarios that could not be set active are still the worker's.
-- Sent by vidan.protocol.lifecycle.start.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
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
) s;
