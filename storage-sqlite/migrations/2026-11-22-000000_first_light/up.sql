-- The schema defends itself: what core promises never to ask for is refused here as well, so that a defect, an older
-- replica or a hand at the `sqlite3` prompt cannot make a state that the state machines do not have.
--
-- Encodings: ids are the 16 bytes of a UUID, in whose order (v7) rows are roughly in the order of creation; times are
-- whole microseconds since 1970 in UTC, written by us and never by SQLite's clock; sizes and counters are 0 to 2^63 - 1.
-- Every table is STRICT: without it SQLite stores text in an INTEGER column without a word.

-- Which versions of Enlist can work with this file. A migration that an older version could not live beside raises the
-- epoch, and older versions then refuse to start; additive ones leave it, so that replicas N and N - 1 coexist.
CREATE TABLE schema_epoch (
    -- One row, ever.
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    epoch  INTEGER NOT NULL CHECK (epoch >= 1),
    -- Raised to see whether the file can be written: SQLite skips an update that changes nothing.
    probes INTEGER NOT NULL DEFAULT 0 CHECK (probes >= 0)
) STRICT;
INSERT INTO schema_epoch (id, epoch) VALUES (1, 1);

-- Identity ----------------------------------------------------------------------------------------------------------

CREATE TABLE hosts (
    -- What `host_presence` and snapshots name the host by: a few bytes instead of 16, by which SQLite finds a row without
    -- comparing any. Never changed, and never given again: AUTOINCREMENT.
    host_key          INTEGER PRIMARY KEY AUTOINCREMENT CHECK (host_key > 0),
    id                BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    -- The guard of the whole aggregate: the host and its tokens.
    revision          INTEGER NOT NULL CHECK (revision >= 1),
    -- Never null: a host without a tenant would be nobody's, and so everybody's.
    tenant_id         TEXT    NOT NULL CHECK (tenant_id <> ''),
    kind              TEXT    NOT NULL CHECK (kind IN ('managed', 'byoc')),
    name              TEXT    NOT NULL CHECK (name <> ''),
    external_id       TEXT    CHECK (external_id <> ''),
    provider          TEXT,
    availability_zone TEXT,
    address           TEXT,
    labels            TEXT    NOT NULL CHECK (json_valid(labels)),
    -- In seconds. Null: the fleet's.
    liveness_window   INTEGER CHECK (liveness_window BETWEEN 3 AND 86400),
    cordoned          INTEGER NOT NULL CHECK (cordoned IN (0, 1)),
    -- Null while the host is live: lifecycle and its one fact are one column, so that they cannot disagree.
    archived_at       INTEGER,
    generation        INTEGER NOT NULL CHECK (generation >= 0),
    enrolled_at       INTEGER,
    -- The tenant's install token whose exchange made the host: only such a one can be enrolled anew by another. No foreign
    -- key, so that the token may go before its host.
    made_with         BLOB    CHECK (length(made_with) = 16),
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    -- Written by reports and not under the revision, as `host_presence` is, and here because that row is rewritten with
    -- each report: small, many lie on a page, and a group of reports dirties a third of the pages.
    facts             TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(facts)),
    -- What an install token's foreign key points at, and what lists a tenant's hosts in the order of their ids.
    UNIQUE (tenant_id, id)
) STRICT;

-- Archived hosts give their name free; the condition is `IS NULL`, not its opposite, and a test inserts both.
CREATE UNIQUE INDEX hosts_name ON hosts (tenant_id, name) WHERE archived_at IS NULL;
-- Archived hosts keep their external id: it names the machine for ever.
CREATE UNIQUE INDEX hosts_external_id ON hosts (tenant_id, external_id) WHERE external_id IS NOT NULL;

CREATE TABLE host_tags (
    host_id BLOB NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    tag     TEXT NOT NULL CHECK (tag <> ''),
    PRIMARY KEY (host_id, tag)
) STRICT, WITHOUT ROWID;

-- Filters and placement ask for the hosts of a tag.
CREATE INDEX host_tags_tag ON host_tags (tag, host_id);

-- Every hash that any token, of either sort, ever had. A hash is accepted once, ever: also after the token's row, or
-- its host, was deleted. Filled by the triggers below, so that no writer can forget it.
CREATE TABLE token_hashes (
    hash     BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    token_id BLOB NOT NULL CHECK (length(token_id) = 16)
) STRICT, WITHOUT ROWID;

CREATE TABLE install_tokens (
    id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- Of its own only when the token is bound to a tenant; otherwise the host's revision guards it.
    revision        INTEGER CHECK (revision >= 1),
    tenant_id       TEXT    NOT NULL CHECK (tenant_id <> ''),
    -- Null: bound to the tenant, and the exchange makes the host.
    host_id         BLOB    CHECK (length(host_id) = 16),
    -- SHA-256 of the token's text: the store never sees the text.
    hash            BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    credential_kind TEXT    NOT NULL CHECK (credential_kind IN ('bearer', 'refresh')),
    state           TEXT    NOT NULL CHECK (state IN ('issued', 'consumed', 'revoked')),
    -- When it came into its final state.
    state_at        INTEGER,
    claim           TEXT    CHECK (claim IN ('client', 'server')),
    -- Of the agent token for a client's claim; of the Idempotency-Key, if there was one, for a server's.
    claim_hash      BLOB    CHECK (length(claim_hash) = 32),
    -- What it bought. No foreign key: a tenant's token stays consumed when the host that it made is deleted.
    agent_token_id  BLOB    CHECK (length(agent_token_id) = 16),
    created_by      TEXT    NOT NULL CHECK (created_by <> ''),
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    -- A token of one tenant that enrols a host of another would cross the one border that must hold: both columns.
    FOREIGN KEY (tenant_id, host_id) REFERENCES hosts (tenant_id, id) ON DELETE CASCADE,
    CHECK ((host_id IS NULL) = (revision IS NOT NULL)),
    -- A state comes with exactly its facts: "consumed" without a claim could be consumed again by anybody.
    CHECK (CASE state
        WHEN 'issued'   THEN state_at IS NULL AND claim IS NULL AND agent_token_id IS NULL
        WHEN 'consumed' THEN state_at IS NOT NULL AND claim IS NOT NULL AND agent_token_id IS NOT NULL
        WHEN 'revoked'  THEN state_at IS NOT NULL AND claim IS NULL AND agent_token_id IS NULL
    END),
    -- A client's claim is its hash; only a server's may lack one.
    CHECK (CASE
        WHEN claim IS NULL    THEN claim_hash IS NULL
        WHEN claim = 'client' THEN claim_hash IS NOT NULL
        ELSE TRUE
    END)
) STRICT, WITHOUT ROWID;

-- Minting revokes the earlier one: two that can be exchanged would enrol two agents on one host.
CREATE UNIQUE INDEX install_tokens_issued ON install_tokens (host_id) WHERE state = 'issued' AND host_id IS NOT NULL;
CREATE INDEX install_tokens_host ON install_tokens (host_id, id) WHERE host_id IS NOT NULL;
-- Lists those that are bound to a tenant itself.
CREATE INDEX install_tokens_of_tenant ON install_tokens (tenant_id, id) WHERE host_id IS NULL;

CREATE TABLE agent_tokens (
    id                      BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    host_id                 BLOB    NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    lineage_id              BLOB    NOT NULL CHECK (length(lineage_id) = 16),
    -- SHA-256 of the token's text: the store never sees the text.
    hash                    BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    kind                    TEXT    NOT NULL CHECK (kind IN ('bearer', 'refresh')),
    name                    TEXT    CHECK (name <> ''),
    origin                  TEXT    NOT NULL CHECK (origin IN ('exchange', 'issued', 'proposed', 'rotated')),
    -- The tokens that a token names are not foreign keys: they may be pruned before it, and then it still names them.
    origin_install_token_id BLOB    CHECK (length(origin_install_token_id) = 16),
    origin_actor_id         TEXT    CHECK (origin_actor_id <> ''),
    predecessor_id          BLOB    CHECK (length(predecessor_id) = 16),
    state                   TEXT    NOT NULL
        CHECK (state IN ('pending', 'active', 'retired', 'displaced', 'revoked')),
    -- When it came into its state; a pending one has only `created_at`.
    state_at                INTEGER,
    -- The token that took its place: of a retired or a displaced one.
    succeeded_by            BLOB    CHECK (length(succeeded_by) = 16),
    retired_by              TEXT    CHECK (retired_by IN ('agent', 'administrator')),
    revoke_reason           TEXT    CHECK (revoke_reason IN
        ('administrator', 'cut_off', 'host_archived', 'reenrolled', 'reuse_detected')),
    created_at              INTEGER NOT NULL,
    expires_at              INTEGER,
    -- Contact, not identity: written coarsely, never under the revision.
    last_used_at            INTEGER,
    CHECK (CASE origin
        WHEN 'exchange' THEN origin_install_token_id IS NOT NULL AND origin_actor_id IS NULL AND predecessor_id IS NULL
        WHEN 'issued'   THEN origin_install_token_id IS NULL AND origin_actor_id IS NOT NULL AND predecessor_id IS NULL
        WHEN 'proposed' THEN origin_install_token_id IS NULL AND origin_actor_id IS NULL AND predecessor_id IS NOT NULL
        WHEN 'rotated'  THEN origin_install_token_id IS NULL AND origin_actor_id IS NOT NULL
                             AND predecessor_id IS NOT NULL
    END),
    -- A state comes with exactly its facts: "retired" without a successor could not tell a late duplicate from a theft.
    CHECK (CASE state
        WHEN 'pending'   THEN state_at IS NULL AND succeeded_by IS NULL AND retired_by IS NULL AND revoke_reason IS NULL
        WHEN 'active'    THEN state_at IS NOT NULL AND succeeded_by IS NULL AND retired_by IS NULL
                              AND revoke_reason IS NULL
        WHEN 'retired'   THEN state_at IS NOT NULL AND succeeded_by IS NOT NULL AND retired_by IS NOT NULL
                              AND revoke_reason IS NULL
        WHEN 'displaced' THEN state_at IS NOT NULL AND succeeded_by IS NOT NULL AND retired_by IS NULL
                              AND revoke_reason IS NULL
        WHEN 'revoked'   THEN state_at IS NOT NULL AND succeeded_by IS NULL AND retired_by IS NULL
                              AND revoke_reason IS NOT NULL
    END)
) STRICT, WITHOUT ROWID;

-- Two active tokens of a lineage are two holders of one credential; two pending ones, two successors of one token.
CREATE UNIQUE INDEX agent_tokens_active ON agent_tokens (lineage_id) WHERE state = 'active';
CREATE UNIQUE INDEX agent_tokens_pending ON agent_tokens (lineage_id) WHERE state = 'pending';
CREATE INDEX agent_tokens_host ON agent_tokens (host_id, id);

-- One that was pruned keeps its hash, and a commit that had loaded it before may write it again.
CREATE TRIGGER install_tokens_hash_once BEFORE INSERT ON install_tokens
WHEN NOT EXISTS (SELECT 1 FROM token_hashes WHERE hash = NEW.hash AND token_id = NEW.id) BEGIN
    INSERT INTO token_hashes (hash, token_id) VALUES (NEW.hash, NEW.id);
END;
CREATE TRIGGER agent_tokens_hash_once BEFORE INSERT ON agent_tokens BEGIN
    INSERT INTO token_hashes (hash, token_id) VALUES (NEW.hash, NEW.id);
END;
-- A new hash under an old id would slip past the register above.
CREATE TRIGGER install_tokens_hash_fixed BEFORE UPDATE OF hash ON install_tokens WHEN NEW.hash <> OLD.hash BEGIN
    SELECT RAISE(ABORT, 'a token keeps its hash');
END;
CREATE TRIGGER agent_tokens_hash_fixed BEFORE UPDATE OF hash ON agent_tokens WHEN NEW.hash <> OLD.hash BEGIN
    SELECT RAISE(ABORT, 'a token keeps its hash');
END;
CREATE TRIGGER token_hashes_fixed BEFORE UPDATE ON token_hashes BEGIN
    SELECT RAISE(ABORT, 'a hash once seen stays seen');
END;

CREATE TABLE events (
    -- Given by the one writer inside the transaction, so that the order of positions is the order of commits.
    -- AUTOINCREMENT: a position is never given twice, also after the newest events were pruned.
    position  INTEGER PRIMARY KEY AUTOINCREMENT,
    id        BLOB    NOT NULL CHECK (length(id) = 16),
    at        INTEGER NOT NULL,
    tenant_id TEXT    NOT NULL CHECK (tenant_id <> ''),
    -- No foreign key: what happened to a host is told after it was deleted as well.
    host_id   BLOB    CHECK (length(host_id) = 16),
    host_kind TEXT    CHECK (host_kind IN ('managed', 'byoc')),
    actor_id  TEXT    CHECK (actor_id <> ''),
    type      TEXT    NOT NULL CHECK (type <> ''),
    data      TEXT    NOT NULL CHECK (json_valid(data)),
    -- A host's event without its kind would be shown to everybody in the tenant, whatever kinds they may see.
    CHECK (host_id IS NULL OR host_kind IS NOT NULL)
) STRICT;

-- Both end in the position, as every index of a table with an integer key does: a page is a range of them.
CREATE INDEX events_tenant ON events (tenant_id);
CREATE INDEX events_host ON events (host_id) WHERE host_id IS NOT NULL;

-- Contact -----------------------------------------------------------------------------------------------------------

-- A row of its own beside the host's: it is rewritten with every report, by another owner, and never under the revision.
CREATE TABLE host_presence (
    -- The host's own.
    host_key           INTEGER PRIMARY KEY,
    host_id            BLOB    NOT NULL UNIQUE REFERENCES hosts (id) ON DELETE CASCADE,
    presence           TEXT    NOT NULL CHECK (presence IN ('pending', 'online', 'unreachable')),
    -- By the server's clock.
    last_seen_at       INTEGER,
    -- When the silence was noticed.
    unreachable_since  INTEGER,
    -- `recorded_at` of the newest stored report: kept when that report itself is pruned.
    newest_report_at   INTEGER,
    -- Its row. No foreign key, for the same reason, and what is found under it may be another's: it counts if host and time
    -- are these.
    newest_report_id   INTEGER,
    -- When the newest report that named all containers arrived: the containers that are not removed were in it, so
    -- that their rows need not be rewritten to say so.
    last_complete_at   INTEGER,
    -- Raised by every write of a container row of the host: whoever caches those rows compares it.
    containers_version INTEGER NOT NULL CHECK (containers_version >= 0),
    -- Raised by every write of the host's facts, by the trigger below: whoever knows what a report says of them compares it.
    facts_version      INTEGER NOT NULL DEFAULT 0 CHECK (facts_version >= 0),
    -- `hosts.liveness_window`, restated: an index of last contacts cannot look it up.
    liveness_window    INTEGER,
    -- What a sweep finds silent hosts by: what `last_seen_at` was a minute ago or less, or, of a host with a window of its own,
    -- when that ended then. An index of `last_seen_at` itself would be written twice with each report; of reports that come
    -- twice a minute or more often, this lets one a minute do so. And it is written at its end, and shortened in the order of
    -- contacts: by the minute alone, in the order of keys, that of a large fleet has a page for each report.
    sweep_from         INTEGER,
    CHECK ((sweep_from IS NULL) = (last_seen_at IS NULL)),
    CHECK (last_seen_at + coalesce(liveness_window, 0) * 1000000 - sweep_from BETWEEN 0 AND 59999999),
    CHECK (CASE presence
        WHEN 'pending'     THEN last_seen_at IS NULL AND unreachable_since IS NULL
        WHEN 'online'      THEN last_seen_at IS NOT NULL AND unreachable_since IS NULL
        WHEN 'unreachable' THEN last_seen_at IS NOT NULL AND unreachable_since IS NOT NULL
    END),
    CHECK (newest_report_id IS NULL OR newest_report_at IS NOT NULL)
) STRICT;

CREATE TRIGGER hosts_facts AFTER UPDATE OF facts ON hosts BEGIN
    UPDATE host_presence SET facts_version = facts_version + 1 WHERE host_key = NEW.host_key;
END;
-- Under another key its snapshots would be another host's.
CREATE TRIGGER host_presence_key_of_host BEFORE INSERT ON host_presence
WHEN NOT EXISTS (SELECT 1 FROM hosts WHERE host_key = NEW.host_key AND id = NEW.host_id) BEGIN
    SELECT RAISE(ABORT, 'a presence has the key of its host');
END;
CREATE TRIGGER hosts_key_fixed BEFORE UPDATE OF host_key ON hosts WHEN NEW.host_key <> OLD.host_key BEGIN
    SELECT RAISE(ABORT, 'a host keeps its key');
END;

-- No foreign keys from here on: each row is written in a transaction that has just read its host, the check would cost
-- a look-up a row, and a deleted host's history is removed in bounded steps rather than by one cascade.

CREATE TABLE containers (
    -- What snapshots name it by: 8 bytes at most instead of the host's 16 and up to 128 of the engine's.
    container_key INTEGER PRIMARY KEY,
    host_id       BLOB NOT NULL CHECK (length(host_id) = 16),
    container_id  TEXT NOT NULL CHECK (container_id <> ''),
    -- Null until a report that was the newest of its time describes the container: one that is known only from older
    -- reports, which may not touch this table, has a row for the sake of its key alone.
    name          TEXT,
    image         TEXT,
    image_tag     TEXT,
    state         TEXT,
    health        TEXT,
    restarts      INTEGER CHECK (restarts >= 0),
    exit_code     INTEGER,
    oom_killed    INTEGER CHECK (oom_killed IN (0, 1)),
    -- Null: none.
    ports         TEXT CHECK (json_valid(ports)),
    labels        TEXT CHECK (json_valid(labels)),
    started_at    INTEGER,
    finished_at   INTEGER,
    error         TEXT,
    first_seen_at INTEGER,
    -- When the row was last written for the container being there; `host_presence.last_complete_at` may be later.
    last_seen_at  INTEGER,
    removed_at    INTEGER,
    -- Also the order in which they are listed.
    UNIQUE (host_id, container_id),
    CHECK ((name IS NULL) = (image IS NULL) AND (name IS NULL) = (state IS NULL)
        AND (name IS NULL) = (first_seen_at IS NULL) AND (name IS NULL) = (last_seen_at IS NULL)),
    CHECK (removed_at IS NULL OR name IS NOT NULL)
) STRICT;

-- Each report that is the newest is compared with what runs now; without this, that would cost as much as everything
-- that ever ran on a host that builds images all day.
CREATE INDEX containers_present ON containers (host_id) WHERE removed_at IS NULL AND name IS NOT NULL;

CREATE TABLE host_metric_snapshots (
    -- Rises with every report of any host, so that rows are appended at the end of the file.
    report_id            INTEGER PRIMARY KEY,
    -- Of `hosts`, or of `deleted_hosts`.
    host_key             INTEGER NOT NULL,
    recorded_at          INTEGER NOT NULL,
    received_at          INTEGER NOT NULL,
    cpu_percent          REAL,
    load_1m              REAL,
    load_5m              REAL,
    load_15m             REAL,
    memory_used_bytes    INTEGER,
    memory_total_bytes   INTEGER,
    swap_used_bytes      INTEGER,
    swap_total_bytes     INTEGER,
    disk_used_bytes      INTEGER,
    disk_total_bytes     INTEGER,
    network_rx_bytes     INTEGER,
    network_tx_bytes     INTEGER,
    uptime_seconds       INTEGER,
    -- Null: none. JSON, since its names are the embedding service's.
    custom               TEXT CHECK (json_valid(custom)),
    -- Null: the report said nothing of its agent.
    agent                TEXT CHECK (json_valid(agent)),
    -- A report's identity, and the one index that reads need.
    UNIQUE (host_key, recorded_at)
) STRICT;

-- A report's containers in one row at the end of the file, the first twelve of them: what a row costs SQLite, its numbers
-- cost again. A compromise: an empty place takes 9 bytes, and who has more containers pays a row for each.
CREATE TABLE report_containers (
    report_id INTEGER PRIMARY KEY,
    container_key_1 INTEGER, cpu_cores_1 REAL, memory_used_bytes_1 INTEGER, memory_limit_bytes_1 INTEGER, network_rx_bytes_1 INTEGER,
    network_tx_bytes_1 INTEGER, block_read_bytes_1 INTEGER, block_write_bytes_1 INTEGER, pids_1 INTEGER,
    container_key_2 INTEGER, cpu_cores_2 REAL, memory_used_bytes_2 INTEGER, memory_limit_bytes_2 INTEGER, network_rx_bytes_2 INTEGER,
    network_tx_bytes_2 INTEGER, block_read_bytes_2 INTEGER, block_write_bytes_2 INTEGER, pids_2 INTEGER,
    container_key_3 INTEGER, cpu_cores_3 REAL, memory_used_bytes_3 INTEGER, memory_limit_bytes_3 INTEGER, network_rx_bytes_3 INTEGER,
    network_tx_bytes_3 INTEGER, block_read_bytes_3 INTEGER, block_write_bytes_3 INTEGER, pids_3 INTEGER,
    container_key_4 INTEGER, cpu_cores_4 REAL, memory_used_bytes_4 INTEGER, memory_limit_bytes_4 INTEGER, network_rx_bytes_4 INTEGER,
    network_tx_bytes_4 INTEGER, block_read_bytes_4 INTEGER, block_write_bytes_4 INTEGER, pids_4 INTEGER,
    container_key_5 INTEGER, cpu_cores_5 REAL, memory_used_bytes_5 INTEGER, memory_limit_bytes_5 INTEGER, network_rx_bytes_5 INTEGER,
    network_tx_bytes_5 INTEGER, block_read_bytes_5 INTEGER, block_write_bytes_5 INTEGER, pids_5 INTEGER,
    container_key_6 INTEGER, cpu_cores_6 REAL, memory_used_bytes_6 INTEGER, memory_limit_bytes_6 INTEGER, network_rx_bytes_6 INTEGER,
    network_tx_bytes_6 INTEGER, block_read_bytes_6 INTEGER, block_write_bytes_6 INTEGER, pids_6 INTEGER,
    container_key_7 INTEGER, cpu_cores_7 REAL, memory_used_bytes_7 INTEGER, memory_limit_bytes_7 INTEGER, network_rx_bytes_7 INTEGER,
    network_tx_bytes_7 INTEGER, block_read_bytes_7 INTEGER, block_write_bytes_7 INTEGER, pids_7 INTEGER,
    container_key_8 INTEGER, cpu_cores_8 REAL, memory_used_bytes_8 INTEGER, memory_limit_bytes_8 INTEGER, network_rx_bytes_8 INTEGER,
    network_tx_bytes_8 INTEGER, block_read_bytes_8 INTEGER, block_write_bytes_8 INTEGER, pids_8 INTEGER,
    container_key_9 INTEGER, cpu_cores_9 REAL, memory_used_bytes_9 INTEGER, memory_limit_bytes_9 INTEGER, network_rx_bytes_9 INTEGER,
    network_tx_bytes_9 INTEGER, block_read_bytes_9 INTEGER, block_write_bytes_9 INTEGER, pids_9 INTEGER,
    container_key_10 INTEGER, cpu_cores_10 REAL, memory_used_bytes_10 INTEGER, memory_limit_bytes_10 INTEGER, network_rx_bytes_10 INTEGER,
    network_tx_bytes_10 INTEGER, block_read_bytes_10 INTEGER, block_write_bytes_10 INTEGER, pids_10 INTEGER,
    container_key_11 INTEGER, cpu_cores_11 REAL, memory_used_bytes_11 INTEGER, memory_limit_bytes_11 INTEGER, network_rx_bytes_11 INTEGER,
    network_tx_bytes_11 INTEGER, block_read_bytes_11 INTEGER, block_write_bytes_11 INTEGER, pids_11 INTEGER,
    container_key_12 INTEGER, cpu_cores_12 REAL, memory_used_bytes_12 INTEGER, memory_limit_bytes_12 INTEGER, network_rx_bytes_12 INTEGER,
    network_tx_bytes_12 INTEGER, block_read_bytes_12 INTEGER, block_write_bytes_12 INTEGER, pids_12 INTEGER
) STRICT;

-- The others, when all places are taken. No second index: a container's course is read through its host's reports.
CREATE TABLE report_containers_more (
    report_id          INTEGER NOT NULL,
    container_key      INTEGER NOT NULL,
    cpu_cores          REAL,
    memory_used_bytes  INTEGER,
    memory_limit_bytes INTEGER,
    network_rx_bytes   INTEGER,
    network_tx_bytes   INTEGER,
    block_read_bytes   INTEGER,
    block_write_bytes  INTEGER,
    pids               INTEGER,
    PRIMARY KEY (report_id, container_key)
) STRICT, WITHOUT ROWID;

-- All of them, a row a container: for people.
CREATE VIEW container_metric_snapshots AS
    SELECT report_id, container_key_1 AS container_key, cpu_cores_1 AS cpu_cores, memory_used_bytes_1 AS memory_used_bytes, memory_limit_bytes_1 AS memory_limit_bytes,
           network_rx_bytes_1 AS network_rx_bytes, network_tx_bytes_1 AS network_tx_bytes, block_read_bytes_1 AS block_read_bytes, block_write_bytes_1 AS block_write_bytes, pids_1 AS pids
    FROM report_containers WHERE container_key_1 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_2, cpu_cores_2, memory_used_bytes_2, memory_limit_bytes_2,
           network_rx_bytes_2, network_tx_bytes_2, block_read_bytes_2, block_write_bytes_2, pids_2
    FROM report_containers WHERE container_key_2 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_3, cpu_cores_3, memory_used_bytes_3, memory_limit_bytes_3,
           network_rx_bytes_3, network_tx_bytes_3, block_read_bytes_3, block_write_bytes_3, pids_3
    FROM report_containers WHERE container_key_3 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_4, cpu_cores_4, memory_used_bytes_4, memory_limit_bytes_4,
           network_rx_bytes_4, network_tx_bytes_4, block_read_bytes_4, block_write_bytes_4, pids_4
    FROM report_containers WHERE container_key_4 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_5, cpu_cores_5, memory_used_bytes_5, memory_limit_bytes_5,
           network_rx_bytes_5, network_tx_bytes_5, block_read_bytes_5, block_write_bytes_5, pids_5
    FROM report_containers WHERE container_key_5 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_6, cpu_cores_6, memory_used_bytes_6, memory_limit_bytes_6,
           network_rx_bytes_6, network_tx_bytes_6, block_read_bytes_6, block_write_bytes_6, pids_6
    FROM report_containers WHERE container_key_6 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_7, cpu_cores_7, memory_used_bytes_7, memory_limit_bytes_7,
           network_rx_bytes_7, network_tx_bytes_7, block_read_bytes_7, block_write_bytes_7, pids_7
    FROM report_containers WHERE container_key_7 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_8, cpu_cores_8, memory_used_bytes_8, memory_limit_bytes_8,
           network_rx_bytes_8, network_tx_bytes_8, block_read_bytes_8, block_write_bytes_8, pids_8
    FROM report_containers WHERE container_key_8 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_9, cpu_cores_9, memory_used_bytes_9, memory_limit_bytes_9,
           network_rx_bytes_9, network_tx_bytes_9, block_read_bytes_9, block_write_bytes_9, pids_9
    FROM report_containers WHERE container_key_9 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_10, cpu_cores_10, memory_used_bytes_10, memory_limit_bytes_10,
           network_rx_bytes_10, network_tx_bytes_10, block_read_bytes_10, block_write_bytes_10, pids_10
    FROM report_containers WHERE container_key_10 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_11, cpu_cores_11, memory_used_bytes_11, memory_limit_bytes_11,
           network_rx_bytes_11, network_tx_bytes_11, block_read_bytes_11, block_write_bytes_11, pids_11
    FROM report_containers WHERE container_key_11 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key_12, cpu_cores_12, memory_used_bytes_12, memory_limit_bytes_12,
           network_rx_bytes_12, network_tx_bytes_12, block_read_bytes_12, block_write_bytes_12, pids_12
    FROM report_containers WHERE container_key_12 IS NOT NULL
    UNION ALL
    SELECT report_id, container_key, cpu_cores, memory_used_bytes, memory_limit_bytes,
           network_rx_bytes, network_tx_bytes, block_read_bytes, block_write_bytes, pids
    FROM report_containers_more;
