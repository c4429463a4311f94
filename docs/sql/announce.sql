-- Take the scenarios whose announcement is due.
-- Sent by vidan.protocol.announcements.take_due.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
UPDATE scenarios
SET announce_at = NULL
WHERE id = ANY(
    ARRAY(
        SELECT id
        FROM scenarios
        WHERE announce_at <= now()
        ORDER BY announce_at
        LIMIT :limit
        FOR NO KEY UPDATE SKIP LOCKED
    )
)
RETURNING id;
