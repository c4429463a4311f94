-- Release the locked scenarios, and charge those that killed their worker.
-- Sent by vidan.protocol.expiry.expire.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
WITH rows AS (
    SELECT
        s.id,
        s.status,
        s.crashes,
        s.max_crashes,
        s.status IN ('init_startup_processing', 'active')
        AND (
            s.id = ANY(CAST(:executing AS bigint[]))
            OR coalesce(
                s.status = 'active'
                AND isfinite(w.lease_until)
                AND w.lease_until - make_interval(secs => :lease) >= CAST(
                    :connected_since AS timestamptz
                ),
                false
            )
        ) AS died,
        CASE
            WHEN s.crashes = 0 THEN now()
            ELSE now() + make_interval(
                secs => least(300, 2 ^ least(s.crashes, 9)) * (0.5 + random() / 2)
            )
        END AS retry_at
    FROM scenarios s
    LEFT JOIN workers w ON w.id = s.worker_id
    WHERE s.id = ANY(:locked)
        AND s.worker_id IS NOT NULL
        AND (w.id IS NULL OR w.lease_until <= now())
        AND (CAST(:worker AS uuid) IS NULL OR s.worker_id = :worker)
),
target AS (
    SELECT
        r.*,
        CASE
            WHEN r.died AND r.crashes >= r.max_crashes THEN CAST('failed' AS text)
            ELSE CASE
                WHEN r.status IN ('active', 'init_startup_processing') THEN CAST(
                    'init_startup' AS text
                )
                ELSE CAST('inactive' AS text)
            END
        END AS to_status,
        CASE
            WHEN r.died THEN coalesce(CAST(:cause AS text), 'the worker died')
            ELSE 'the lease ended'
        END AS reason
    FROM rows r
),
moved AS (
    UPDATE scenarios s
    SET
        status = r.to_status,
        worker_id = NULL,
        crashes = s.crashes + CASE WHEN r.died THEN 1 ELSE 0 END,
        error = CASE
            WHEN r.died AND r.crashes >= r.max_crashes THEN 'it ended its worker process ' || (
                r.crashes + 1
            ) || ' times' || coalesce('; at last ' || CAST(:cause AS text), '')
            ELSE s.error
        END,
        traceback = CASE WHEN r.died AND r.crashes >= r.max_crashes THEN NULL ELSE s.traceback END,
        not_before = CASE WHEN r.died THEN r.retry_at ELSE now() END,
        announce_at = CASE
            WHEN r.to_status <> 'init_startup' THEN NULL
            WHEN r.died THEN r.retry_at
            ELSE now()
        END,
        ended_at = CASE WHEN r.to_status = 'init_startup' THEN NULL ELSE now() END
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
    RETURNING s.id, r.status AS from_status, s.status AS to_status, r.reason, s.followed, r.died
),
logged AS (
    INSERT INTO transitions (scenario_id, from_status, to_status, reason, actor)
    SELECT id, from_status, to_status, reason, CAST(:actor AS text)
    FROM moved
)
SELECT *
FROM moved
ORDER BY id;
