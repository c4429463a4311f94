-- Ask whether any lease has ended.
-- Sent by vidan.protocol.expiry.any_ended.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
SELECT
    now(),
    EXISTS (
        SELECT 1
        FROM workers
        WHERE lease_until <= now() AND state <> 'gone'
    )
    OR EXISTS (
        SELECT 1
        FROM scenarios s
        LEFT JOIN workers w ON w.id = s.worker_id
        WHERE s.worker_id IS NOT NULL
            AND (w.id IS NULL OR w.lease_until <= now())
            AND (CAST(:worker AS uuid) IS NULL OR s.worker_id = :worker)
    );
