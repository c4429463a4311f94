-- Read the living workers and what each one holds.
-- Sent by vidan.services.workers.find.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
SELECT
    w.id,
    w.name,
    w.host,
    w.pid,
    w.device,
    w.slots,
    w.queues,
    w.tasks,
    w.versions,
    w.source,
    w.quarantine,
    w.desired_state,
    w.desired_slots,
    CASE
        WHEN w.lease_until <= now() THEN 'gone'
        WHEN w.desired_state <> 'running' THEN 'draining'
        ELSE w.state
    END AS state,
    w.lease_until > now() AS alive,
    w.fps,
    w.seen_at,
    ARRAY(
        SELECT s.id
        FROM scenarios s
        WHERE s.worker_id = w.id
    ) AS scenarios
FROM workers w
WHERE w.lease_until > now()
ORDER BY w.name, w.registered_at DESC;
