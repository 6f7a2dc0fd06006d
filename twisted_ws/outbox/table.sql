-- The outbox of twisted_ws: a row that is committed here is published to its channel, and deleted.

CREATE TABLE IF NOT EXISTS twisted_ws_outbox (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text NOT NULL,
    data    jsonb NOT NULL,  -- a JSON string is published as text, everything else as JSON
    key     text,            -- of several messages with one key, a slow subscriber may get only the newest
    created timestamptz NOT NULL DEFAULT clock_timestamp(),
    error   text             -- why it cannot be published; NULL for what waits
);

CREATE INDEX IF NOT EXISTS twisted_ws_outbox_waiting ON twisted_ws_outbox (id) WHERE error IS NULL;

-- Wakes the consumer when the transaction commits.
CREATE OR REPLACE FUNCTION twisted_ws_outbox_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('twisted_ws_outbox', '');
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS twisted_ws_outbox_wake ON twisted_ws_outbox;
CREATE TRIGGER twisted_ws_outbox_wake AFTER INSERT ON twisted_ws_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION twisted_ws_outbox_wake();
