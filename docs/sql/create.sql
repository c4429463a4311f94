-- Create scenarios, with their first transitions.
-- Sent by vidan.protocol.creation.insert.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH given AS MATERIALIZED (
    SELECT
        nextval(pg_get_serial_sequence('scenarios', 'id')) AS id,
        r.*,
        CASE
            WHEN r.not_before IS NOT NULL OR r.after IS NOT NULL THEN least(
                greatest(r.not_before, now() + make_interval(secs => r.after), :earliest), :latest
            )
        END AS earliest
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (
        name text, key text, labels jsonb, task text, source text, needs_source boolean,
        params jsonb, queue text, priority integer, status text, not_before timestamptz,
        after double precision, max_attempts integer, time_limit double precision,
        soft_time_limit double precision, parent_id bigint, followed boolean, definition text,
        "then" jsonb, on_failure jsonb
    )
),
inserted AS (
    INSERT INTO scenarios (
        id, name, key, labels, task, source, needs_source, params, queue, priority, status,
        not_before, announce_at, max_attempts, time_limit, soft_time_limit, week, ended_at,
        parent_id, followed, definition
    )
    SELECT
        n.id,
        n.name,
        n.key,
        n.labels,
        n.task,
        n.source,
        n.needs_source,
        n.params,
        n.queue,
        n.priority,
        n.status,
        coalesce(n.earliest, now()),
        CASE WHEN n.status = 'init_startup' THEN greatest(now(), n.earliest) END,
        n.max_attempts,
        n.time_limit,
        n.soft_time_limit,
        :week,
        CASE WHEN n.status = 'inactive' THEN now() END,
        n.parent_id,
        n.followed,
        coalesce(n.definition, '')
    FROM given n
    ORDER BY n.key, n.id
    ON CONFLICT (key) DO NOTHING
    RETURNING id, key, status
),
logged AS (
    INSERT INTO transitions (scenario_id, to_status, reason, actor)
    SELECT id, status, 'created', :actor
    FROM inserted
)
SELECT id, key
FROM inserted;
