-- Read transitions that have become known since a position.
-- Sent by vidan.services.events.read.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH fresh AS (
    SELECT *
    FROM transitions t
    WHERE t.id > :last
    ORDER BY t.id
    LIMIT :page
),
late AS (
    SELECT t.*
    FROM jsonb_to_recordset(CAST(:gaps AS jsonb)) AS g (low bigint, high bigint)
    CROSS JOIN LATERAL (
        SELECT *
        FROM transitions t
        WHERE t.id BETWEEN g.low AND g.high
        ORDER BY t.id
        LIMIT :page
    ) t
    LIMIT :page
),
steps AS (SELECT id, lag(id, 1, :last) OVER (ORDER BY id) AS before FROM fresh),
chosen AS (
    SELECT
        t.id, t.at, t.scenario_id, t.from_status, t.to_status, t.reason, t.actor, s.task, s.queue,
        s.name, s.source
    FROM (
        SELECT *
        FROM late
        UNION ALL
        SELECT *
        FROM fresh
    ) t
    LEFT JOIN scenarios s ON s.id = t.scenario_id
    WHERE true AND s.task = :task
)
SELECT
    CAST(CAST(pg_snapshot_xmin(seen) AS text) AS bigint) AS running_from,
    (SELECT count(*) FROM fresh) AS fresh,
    (SELECT max(id) FROM fresh) AS last,
    (
        SELECT jsonb_agg(jsonb_build_array(before + 1, id - 1) ORDER BY id)
        FROM steps
        WHERE id > before + 1
    ) AS gaps,
    (SELECT jsonb_agg(id ORDER BY id) FROM late) AS late,
    (SELECT jsonb_agg(to_jsonb(chosen) ORDER BY id) FROM chosen) AS events
FROM pg_current_snapshot() AS seen;
