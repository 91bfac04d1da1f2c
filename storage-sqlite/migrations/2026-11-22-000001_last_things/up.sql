-- How things end: hosts that are deleted, what they leave behind, who is told of tokens that were cut off, and what
-- finds rows that are old enough to go. All of it is added to what is there, so that the epoch stays: a process of the
-- version before goes on beside this one, and the triggers write for it what it does not know of.

-- Deletion ----------------------------------------------------------------------------------------------------------

-- What is left of the agent tokens of a deleted host: the agent can still be told why it is refused.
CREATE TABLE tombstones (
    hash       BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    token_id   BLOB    NOT NULL CHECK (length(token_id) = 16),
    host_id    BLOB    NOT NULL CHECK (length(host_id) = 16),
    -- When its host was deleted.
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tombstones_deleted_at ON tombstones (deleted_at);

-- Hosts whose containers and snapshots are still to be removed. A row goes when nothing is left of its host.
CREATE TABLE deleted_hosts (
    host_id    BLOB    NOT NULL PRIMARY KEY CHECK (length(host_id) = 16),
    -- What its snapshots name it by.
    host_key   INTEGER NOT NULL UNIQUE,
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Without its entry, what a host reported would stay for ever, and nothing would ever look for it.
CREATE TRIGGER hosts_entered_first BEFORE DELETE ON hosts
WHEN NOT EXISTS (
    SELECT 1 FROM deleted_hosts AS d JOIN host_presence AS p USING (host_id, host_key) WHERE host_id = OLD.id) BEGIN
    SELECT RAISE(ABORT, 'a host is entered in deleted_hosts before it goes');
END;
-- A host of the same id would be shown the other's past, and would lose its own to the next prune.
CREATE TRIGGER hosts_id_once BEFORE INSERT ON hosts
WHEN EXISTS (SELECT 1 FROM deleted_hosts WHERE host_id = NEW.id) BEGIN
    SELECT RAISE(ABORT, 'the id of a deleted host is not given again');
END;
CREATE TRIGGER host_presence_key_once BEFORE INSERT ON host_presence
WHEN EXISTS (SELECT 1 FROM deleted_hosts WHERE host_key = NEW.host_key) BEGIN
    SELECT RAISE(ABORT, 'the key of a deleted host is not given again');
END;
CREATE TRIGGER host_presence_key_fixed BEFORE UPDATE OF host_key ON host_presence WHEN NEW.host_key <> OLD.host_key BEGIN
    SELECT RAISE(ABORT, 'a host keeps its key');
END;

-- The register of hashes stays as it is, but for agent tokens of deleted hosts: those are seen for as long as there is
-- a tombstone, and forgotten with it, or the register would grow for ever. Those of install tokens are never forgotten,
-- also when the tokens themselves are pruned.
CREATE TRIGGER tombstones_hash_forgotten AFTER DELETE ON tombstones BEGIN
    DELETE FROM token_hashes WHERE hash = OLD.hash AND token_id = OLD.token_id;
END;
CREATE TRIGGER token_hashes_kept BEFORE DELETE ON token_hashes
WHEN EXISTS (SELECT 1 FROM agent_tokens WHERE hash = OLD.hash)
    OR EXISTS (SELECT 1 FROM install_tokens WHERE hash = OLD.hash)
    OR EXISTS (SELECT 1 FROM tombstones WHERE hash = OLD.hash) BEGIN
    SELECT RAISE(ABORT, 'a hash stays seen while a token or a tombstone has it');
END;

-- Changes -----------------------------------------------------------------------------------------------------------

-- The hashes of agent tokens that were cut off, retired or deleted, for subscriptions of any process to read. Filled by
-- the triggers below, so that no writer can forget it.
CREATE TABLE credential_changes (
    -- AUTOINCREMENT: numbers rise by one and are never given twice, so that whoever remembers the last one it has read
    -- sees whether some behind it were trimmed.
    change_id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash      BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER agent_tokens_made_ended AFTER INSERT ON agent_tokens WHEN NEW.state NOT IN ('pending', 'active') BEGIN
    INSERT INTO credential_changes (hash) VALUES (NEW.hash);
END;
-- Of the state alone: a last use that is noted late cuts nothing off.
CREATE TRIGGER agent_tokens_ended AFTER UPDATE OF state ON agent_tokens
WHEN NEW.state NOT IN ('pending', 'active') BEGIN
    INSERT INTO credential_changes (hash) VALUES (NEW.hash);
END;
CREATE TRIGGER agent_tokens_deleted AFTER DELETE ON agent_tokens BEGIN
    INSERT INTO credential_changes (hash) VALUES (OLD.hash);
END;
-- Subscriptions read twice a second: far fewer than these are ever behind, and who was away for longer is told so. The
-- newest row always stays.
CREATE TRIGGER credential_changes_short AFTER INSERT ON credential_changes BEGIN
    DELETE FROM credential_changes WHERE change_id <= NEW.change_id - 100000;
END;

-- Silence -----------------------------------------------------------------------------------------------------------

-- Finds the few hosts that are online and were not heard of late among all that were, several times a minute. Those that
-- fell are not in it: they may stay for years.
CREATE INDEX host_presence_online ON host_presence (sweep_from) WHERE presence = 'online' AND liveness_window IS NULL;
-- The same for hosts with a window of their own, by when it ends.
CREATE INDEX host_presence_online_own ON host_presence (sweep_from)
    WHERE presence = 'online' AND liveness_window IS NOT NULL;
-- So that whoever changes a host's window restates it.
CREATE TRIGGER hosts_liveness_window AFTER UPDATE OF liveness_window ON hosts
WHEN NEW.liveness_window IS NOT OLD.liveness_window BEGIN
    UPDATE host_presence
    SET liveness_window = NEW.liveness_window,
        sweep_from = last_seen_at + coalesce(NEW.liveness_window, 0) * 1000000
    WHERE host_key = NEW.host_key;
END;
-- What is counted of it when many fall at once: how long ago they did is the monitor's to remember.
CREATE TABLE monitor (
    -- One row, ever.
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    -- As `enlist_core::liveness::Monitor` writes it.
    state TEXT NOT NULL CHECK (json_valid(state))
) STRICT;
INSERT INTO monitor (id, state) VALUES (1, '{}');

-- Placement ---------------------------------------------------------------------------------------------------------

-- Hosts that new work may go to, as far as their own rows tell, in the order of the random part of their ids: a few behind
-- a place drawn at random are a sample. Whether a host is online is looked up, so that no transition rewrites these; among
-- those with a tag all may be silent, and `host_tags_ring`, below, has only those that are not.
CREATE INDEX hosts_ring ON hosts (substr(id, 9), id) WHERE archived_at IS NULL AND cordoned = 0;
CREATE INDEX hosts_ring_of_tenant ON hosts (tenant_id, substr(id, 9), id) WHERE archived_at IS NULL AND cordoned = 0;
CREATE INDEX hosts_ring_of_kind ON hosts (kind, substr(id, 9), id) WHERE archived_at IS NULL AND cordoned = 0;

-- Lists -------------------------------------------------------------------------------------------------------------

-- Of each filter an index in the order of the list, so that a page is found without a look at what it passes over. None of
-- them has a column that a report changes.
CREATE INDEX hosts_kind ON hosts (kind, id);
-- Archived hosts are found by their names, too.
CREATE INDEX hosts_named ON hosts (name, id);
CREATE INDEX hosts_named_in_tenant ON hosts (tenant_id, name, id);

-- Whether `hosts.archived_at` is set, restated: archived hosts keep the presence that they had, and may be many more than
-- those that are unreachable and in service.
ALTER TABLE host_presence ADD COLUMN archived INTEGER NOT NULL DEFAULT 0 CHECK (archived IN (0, 1));
UPDATE host_presence SET archived = 1 WHERE host_id IN (SELECT id FROM hosts WHERE archived_at IS NOT NULL);
CREATE TRIGGER hosts_archived_restated AFTER UPDATE OF archived_at ON hosts
WHEN (NEW.archived_at IS NULL) <> (OLD.archived_at IS NULL) BEGIN
    UPDATE host_presence SET archived = NEW.archived_at IS NOT NULL WHERE host_key = NEW.host_key;
END;
CREATE TRIGGER host_presence_archived AFTER INSERT ON host_presence
WHEN NEW.archived = 0 AND EXISTS (SELECT 1 FROM hosts WHERE host_key = NEW.host_key AND archived_at IS NOT NULL) BEGIN
    UPDATE host_presence SET archived = 1 WHERE host_key = NEW.host_key;
END;
-- Written when a host comes online or falls silent. It does not begin with the presence: those that are online and were not
-- heard of late would be looked for in it.
CREATE INDEX host_presence_status ON host_presence (archived, presence, host_id);
CREATE INDEX host_presence_archived ON host_presence (archived, host_id) WHERE archived = 1;

-- What lists and placement ask of a host besides its tag. `Status::of` of core, restated: archived, else the presence.
CREATE VIEW host_standings (host_id, status, cordoned) AS
SELECT p.host_id, CASE p.archived WHEN 1 THEN 'archived' ELSE p.presence END, h.cordoned
FROM host_presence AS p JOIN hosts AS h USING (host_key);
-- It stands beside each tag, so that the few hosts of a tag and a status are found without a look at each that has the tag.
-- Kept by triggers, so that no writer can forget it. They run with transitions and edits: a contact of a host that is online
-- names none of these columns.
ALTER TABLE host_tags ADD COLUMN status TEXT NOT NULL DEFAULT 'pending'
    CHECK (status IN ('pending', 'online', 'unreachable', 'archived'));
ALTER TABLE host_tags ADD COLUMN cordoned INTEGER NOT NULL DEFAULT 0 CHECK (cordoned IN (0, 1));
UPDATE host_tags SET status = s.status, cordoned = s.cordoned FROM host_standings AS s WHERE s.host_id = host_tags.host_id;
CREATE TRIGGER host_tags_standing AFTER INSERT ON host_tags
WHEN EXISTS (SELECT 1 FROM host_standings AS s
    WHERE s.host_id = NEW.host_id AND (s.status <> NEW.status OR s.cordoned <> NEW.cordoned)) BEGIN
    UPDATE host_tags SET (status, cordoned) = (SELECT s.status, s.cordoned FROM host_standings AS s WHERE s.host_id = NEW.host_id)
    WHERE host_id = NEW.host_id AND tag = NEW.tag;
END;
CREATE TRIGGER host_presence_standing AFTER INSERT ON host_presence BEGIN
    UPDATE host_tags SET status = (SELECT s.status FROM host_standings AS s WHERE s.host_id = NEW.host_id)
    WHERE host_id = NEW.host_id;
END;
CREATE TRIGGER host_presence_standing_changed AFTER UPDATE OF presence, archived ON host_presence
WHEN NEW.presence <> OLD.presence OR NEW.archived <> OLD.archived BEGIN
    UPDATE host_tags SET status = (SELECT s.status FROM host_standings AS s WHERE s.host_id = NEW.host_id)
    WHERE host_id = NEW.host_id;
END;
CREATE TRIGGER hosts_cordoned_restated AFTER UPDATE OF cordoned ON hosts WHEN NEW.cordoned <> OLD.cordoned BEGIN
    UPDATE host_tags SET cordoned = NEW.cordoned WHERE host_id = NEW.id;
END;
CREATE INDEX host_tags_status ON host_tags (tag, status, host_id);
-- The ring, again, of those alone that work may go to: where there is none, that is known at once.
CREATE INDEX host_tags_ring ON host_tags (tag, substr(host_id, 9), host_id) WHERE status = 'online' AND cordoned = 0;

CREATE INDEX events_type ON events (type);
CREATE INDEX events_kind ON events (host_kind);

-- Age ---------------------------------------------------------------------------------------------------------------

CREATE INDEX events_at ON events (at);

-- Whether the agent token that it was exchanged for has ended, or was deleted with its host: noted by triggers, so that
-- looking for what is spent passes over no host that still works with what it bought, years ago.
ALTER TABLE install_tokens ADD COLUMN bought_ended INTEGER NOT NULL DEFAULT 0 CHECK (bought_ended IN (0, 1));
-- `InstallToken::spent_at`, restated.
ALTER TABLE install_tokens ADD COLUMN spent_at INTEGER GENERATED ALWAYS AS (CASE
    WHEN state = 'issued' THEN expires_at
    WHEN state = 'revoked' OR bought_ended THEN state_at
END) VIRTUAL;
CREATE INDEX install_tokens_spent ON install_tokens (spent_at) WHERE spent_at IS NOT NULL;
CREATE INDEX install_tokens_bought ON install_tokens (agent_token_id) WHERE agent_token_id IS NOT NULL;
UPDATE install_tokens SET bought_ended = 1
WHERE state = 'consumed' AND NOT EXISTS (
    SELECT 1 FROM agent_tokens WHERE agent_tokens.id = agent_token_id AND agent_tokens.state IN ('pending', 'active'));
CREATE TRIGGER bought_made_ended AFTER INSERT ON agent_tokens WHEN NEW.state NOT IN ('pending', 'active') BEGIN
    UPDATE install_tokens SET bought_ended = 1 WHERE agent_token_id = NEW.id;
END;
CREATE TRIGGER bought_ended AFTER UPDATE OF state ON agent_tokens WHEN NEW.state NOT IN ('pending', 'active') BEGIN
    UPDATE install_tokens SET bought_ended = 1 WHERE agent_token_id = NEW.id;
END;
CREATE TRIGGER bought_deleted AFTER DELETE ON agent_tokens BEGIN
    UPDATE install_tokens SET bought_ended = 1 WHERE agent_token_id = OLD.id;
END;
-- Written once in a container's life, unlike an index of all of them.
CREATE INDEX containers_removed ON containers (removed_at) WHERE removed_at IS NOT NULL;

-- A container that goes may still be named by snapshots that stay: its row is then kept for the sake of its key alone.
-- Of such a row: no snapshot that names it was measured later than this. Once those until then are gone, so can it be.
-- Null: made by the version before, and kept for as long as its host.
ALTER TABLE containers ADD COLUMN named_until INTEGER;
UPDATE containers
SET named_until = (SELECT newest_report_at FROM host_presence WHERE host_presence.host_id = containers.host_id)
WHERE name IS NULL;
CREATE INDEX containers_key_only ON containers (named_until) WHERE name IS NULL;
