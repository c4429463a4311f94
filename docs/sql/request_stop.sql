-- Ask a scenario to stop, for a user.
-- Sent by vidan.services.steering.stop.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH rows AS (
    SELECT s.id, s.status
    FROM scenarios s
    WHERE s.id = :id
),
target AS (
    SELECT r.*, CAST('init_shutdown' AS text) AS to_status, CAST('stop asked for' AS text) AS reason
    FROM rows r
),
moved AS (
    UPDATE scenarios s
    SET
        status = r.to_status,
        announce_at = NULL,
        ended_at = CASE WHEN r.to_status = 'inactive' THEN now() ELSE s.ended_at END
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
