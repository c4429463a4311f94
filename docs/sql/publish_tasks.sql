-- Enter a worker's tasks, or bring them up to date.
-- Sent by vidan.protocol.tasks.publish.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
INSERT INTO tasks (
    name, params_schema, needs_source, summary, max_attempts, time_limit, soft_time_limit,
    concurrency, rate_limit
)
SELECT
    name, params_schema, needs_source, summary, max_attempts, time_limit, soft_time_limit,
    concurrency, rate_limit
FROM jsonb_populate_recordset(CAST(NULL AS tasks), CAST(:specs AS jsonb))
ORDER BY name
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
    rate_limit = excluded.rate_limit
WHERE (
    tasks.name, tasks.params_schema, tasks.needs_source, tasks.summary, tasks.max_attempts,
    tasks.time_limit, tasks.soft_time_limit, tasks.concurrency, tasks.rate_limit
) IS DISTINCT FROM (
    excluded.name, excluded.params_schema, excluded.needs_source, excluded.summary,
    excluded.max_attempts, excluded.time_limit, excluded.soft_time_limit, excluded.concurrency,
    excluded.rate_limit
);
