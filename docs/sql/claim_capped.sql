-- Claim due scenarios, of a capped task as many as there is room for.
-- Sent by vidan.protocol.claims.claim.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH rows AS (
    SELECT id, status, needs_source, priority, not_before, task
    FROM (
        SELECT
            due.*,
            t.room,
            row_number() OVER (
                PARTITION BY due.task ORDER BY due.priority DESC, due.not_before
            ) AS place
        FROM unnest(CAST(:queues AS text[])) AS q (queue)
        CROSS JOIN (
            SELECT p.task, p.definition, p.room
            FROM unnest(
                CAST(:tasks AS text[]),
                CAST(:definitions AS text[]),
                CAST(:rooms AS integer[]),
                CAST(:counted AS boolean[])
            ) AS p (task, definition, room, counted)
            LEFT JOIN tasks c ON c.name = p.task
            WHERE p.counted OR (c.concurrency IS NULL AND c.rate_limit IS NULL)
        ) AS t
        CROSS JOIN LATERAL (
            SELECT s.id, s.status, s.needs_source, s.priority, s.not_before, s.task
            FROM scenarios s
            WHERE s.status = 'init_startup'
                AND s.queue = q.queue
                AND s.task = t.task
                AND s.definition = t.definition
                AND s.not_before <= now()
                AND s.id <> ALL(CAST(:skip AS bigint[]))
                AND (NOT s.needs_source OR (s.source IS NOT NULL AND NOT s.source_bound))
                AND s.crashes <= 1
            ORDER BY s.priority DESC, s.not_before
            LIMIT least(:free, t.room)
            FOR NO KEY UPDATE SKIP LOCKED
        ) due
        WHERE EXISTS (
            SELECT 1
            FROM workers w
            WHERE w.id = :worker AND w.lease_until > now() AND w.desired_state = 'running'
        )
    ) one
    WHERE place <= room
    ORDER BY priority DESC, not_before
    LIMIT :free
),
target AS (
    SELECT
        r.*,
        CASE
            WHEN r.needs_source THEN CAST('init_startup_processing' AS text)
            ELSE 'active'
        END AS to_status,
        CAST('claimed' AS text) AS reason,
        CASE WHEN NOT r.needs_source THEN CAST('init_startup_processing' AS text) END AS via
    FROM rows r
),
moved AS (
    UPDATE scenarios s
    SET
        status = r.to_status,
        started_at = CASE
            WHEN s.needs_source THEN s.started_at
            ELSE coalesce(s.started_at, now())
        END,
        epoch = s.epoch + 1,
        worker_id = :worker,
        announce_at = NULL,
        source_bound = s.source_bound OR (s.needs_source AND s.source IS NULL),
        source = CASE
            WHEN s.needs_source AND s.source IS NULL THEN CAST(:source AS text)
            ELSE s.source
        END
    FROM target r
    WHERE s.id = r.id
        AND (r.status, coalesce(r.via, r.to_status)) IN (
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
        AND (
            r.via IS NULL
            OR (r.via, r.to_status) IN (
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
        )
    RETURNING
        s.id, r.status AS from_status, s.status AS to_status, r.reason, s.followed, r.via, s.epoch,
        s.task, s.source, s.needs_source, s.params, s.checkpoint, s.checkpoint_pts,
        s.restart_packet, s.restart_frame, s.state, s.label_names, s.crashes, s.attempts,
        s.time_limit, s.soft_time_limit, s.priority, s.not_before
),
logged AS (
    INSERT INTO transitions (scenario_id, from_status, to_status, reason, actor)
    SELECT id, from_status, coalesce(via, to_status), reason, CAST(:actor AS text)
    FROM moved
    UNION ALL
    SELECT id, via, to_status, NULL, CAST(:actor AS text)
    FROM moved
    WHERE via IS NOT NULL
)
SELECT *
FROM moved
ORDER BY id;
