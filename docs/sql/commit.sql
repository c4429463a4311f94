-- Move checkpoint and state under the fence (COPY of the predictions follows).
-- Sent by vidan.protocol.commits.commit.
-- In psql, give each named parameter a value (\set name value) before EXPLAIN.
UPDATE scenarios
SET
    checkpoint = :to,
    checkpoint_pts = :pts,
    restart_packet = :restart_packet,
    restart_frame = :restart_frame,
    state = CAST(:state AS jsonb),
    label_names = CAST(:label_names AS text[]),
    frames_total = :frames_total,
    frames_done = frames_done + :frames,
    source_info = coalesce(CAST(:source_info AS jsonb), source_info),
    notes = notes || ARRAY(
        SELECT note
        FROM unnest(CAST(:notes AS text[])) AS note
        WHERE note <> ALL (notes)
    ),
    attempts = CASE WHEN :clear THEN 0 ELSE attempts END,
    crashes = CASE WHEN :clear THEN 0 ELSE crashes END
WHERE id = :id
    AND epoch = :epoch
    AND worker_id = :worker
    AND checkpoint = :from
    AND status IN ('active', 'init_shutdown', 'in_shutdown_processing')
RETURNING status, week;
