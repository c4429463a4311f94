-- Enter a worker's tasks, or bring them up to date.
-- Sent by vidan.protocol.tasks.publish.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
INSERT INTO tasks (
    name, params_schema, needs_source, summary, max_attempts, time_limit, soft_time_limit,
    concurrency, rate_limit, definition, version
)
SELECT
    w.name, w.params_schema, w.needs_source, w.summary, w.max_attempts, w.time_limit,
    w.soft_time_limit, w.concurrency, w.rate_limit, w.definition, w.version
FROM (SELECT * FROM jsonb_populate_recordset(CAST(NULL AS tasks), CAST(:specs AS jsonb))) w
LEFT JOIN tasks t ON t.name = w.name
WHERE t.name IS NULL
    OR t.version IS DISTINCT FROM w.version
    OR (
        t.name, t.params_schema, t.needs_source, t.summary, t.max_attempts, t.time_limit,
        t.soft_time_limit, t.concurrency, t.rate_limit, t.definition
    ) IS DISTINCT FROM (
        w.name, w.params_schema, w.needs_source, w.summary, w.max_attempts, w.time_limit,
        w.soft_time_limit, w.concurrency, w.rate_limit, w.definition
    )
ORDER BY w.name
ON CONFLICT (name)
DO UPDATE SET
    published_at = now(),
    rate_next = CASE WHEN tasks.rate_limit = excluded.rate_limit THEN tasks.rate_next END,
    name = excluded.name,
    params_schema = excluded.params_schema,
    needs_source = excluded.needs_source,
    summary = excluded.summary,
    max_attempts = excluded.max_attempts,
    time_limit = excluded.time_limit,
    soft_time_limit = excluded.soft_time_limit,
    concurrency = excluded.concurrency,
    rate_limit = excluded.rate_limit,
    definition = excluded.definition,
    version = excluded.version
RETURNING name;
