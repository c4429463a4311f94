-- Renew a worker's lease and read what it holds.
-- Sent by vidan.protocol.heartbeats.beat.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH renewed AS (
    UPDATE workers
    SET
        lease_until = now() + make_interval(secs => :lease),
        seen_at = now(),
        state = :state,
        fps = :fps,
        slots = coalesce(CAST(:slots AS integer), slots)
    WHERE id = :id AND lease_until > now()
    RETURNING desired_state, desired_slots
)
SELECT
    desired_state,
    desired_slots,
    coalesce(
        (
            SELECT jsonb_agg(jsonb_build_array(id, epoch, status))
            FROM scenarios
            WHERE worker_id = :id
        ),
        '[]'
    ) AS held,
    CAST(NULL AS bigint) AS live
FROM renewed;
