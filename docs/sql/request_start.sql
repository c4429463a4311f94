-- Start a scenario that has ended, for a user.
-- Sent by vidan.services.steering.start.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH rows AS (
    SELECT s.id, s.status
    FROM scenarios s
    WHERE s.id = ANY(CAST(:ids AS bigint[])) AND s.status IN ('completed', 'failed', 'inactive')
    ORDER BY s.id
    FOR NO KEY UPDATE
),
target AS (
    SELECT r.*, CAST('init_startup' AS text) AS to_status, CAST(:reason AS text) AS reason
    FROM rows r
),
moved AS (
    UPDATE scenarios s
    SET
        status = r.to_status,
        attempts = 0,
        crashes = 0,
        error = NULL,
        traceback = NULL,
        result = NULL,
        ended_at = NULL,
        not_before = now(),
        announce_at = now()
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
