-- Lock the scenarios that are held under leases that have ended.
-- Sent by vidan.protocol.expiry.expire.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH ended AS MATERIALIZED (
    SELECT s.id
    FROM scenarios s
    LEFT JOIN workers w ON w.id = s.worker_id
    WHERE s.worker_id IS NOT NULL
        AND (w.id IS NULL OR w.lease_until <= now())
        AND (CAST(:worker AS uuid) IS NULL OR s.worker_id = :worker)
)
SELECT s.id
FROM scenarios s
WHERE s.id = ANY(ARRAY(SELECT id FROM ended)) AND s.worker_id IS NOT NULL
ORDER BY s.id
LIMIT 500
FOR NO KEY UPDATE SKIP LOCKED;
