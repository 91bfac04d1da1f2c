-- The schema defends itself: what core promises never to ask for is refused here as well, so that a defect, an older
-- replica or a hand at the `psql` prompt cannot make a state that the state machines do not have.
--
-- Encodings: ids are UUIDs, in whose order (v7) rows are roughly in the order of creation; times are whole microseconds
-- in UTC, written by us and never by the server's clock; sizes and counters are 0 to 2^63 - 1. Text is compared byte by
-- byte (`COLLATE "C"`), whatever the database's locale. JSON is `json` and not `jsonb`, which would round numbers and
-- lose the sign of a zero: a report sent again must be seen to be the same.
--
-- Names are not qualified here: the runner sets the search path to the one schema, for this transaction. The store
-- tells clashes apart by the names of the constraints below.

-- Which versions of Enlist can work with this schema. A migration that an older version could not live beside raises
-- the epoch: an older replica that starts then refuses to work, and one that runs does from its next `check` on.
-- Additive migrations leave it, so that replicas N and N - 1 coexist.
CREATE TABLE schema_epoch (
    -- One row, ever.
    id     smallint NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch  bigint   NOT NULL CHECK (epoch >= 1),
    -- Raised to see whether the database can be written.
    probes bigint   NOT NULL DEFAULT 0 CHECK (probes >= 0)
);
INSERT INTO schema_epoch (id, epoch) VALUES (1, 1);

-- Identity ----------------------------------------------------------------------------------------------------------

CREATE TABLE hosts (
    id                uuid             NOT NULL CONSTRAINT hosts_pkey PRIMARY KEY,
    -- The guard of the whole aggregate: the host and its tokens.
    revision          bigint           NOT NULL CHECK (revision >= 1),
    -- Never null: a host without a tenant would be nobody's, and so everybody's.
    tenant_id         text COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    kind              text COLLATE "C" NOT NULL CHECK (kind IN ('managed', 'byoc')),
    name              text COLLATE "C" NOT NULL CHECK (name <> ''),
    external_id       text COLLATE "C" CHECK (external_id <> ''),
    provider          text COLLATE "C",
    availability_zone text COLLATE "C",
    address           text COLLATE "C",
    labels            json             NOT NULL CHECK (json_typeof(labels) = 'object'),
    -- In seconds. Null: the fleet's.
    liveness_window   bigint           CHECK (liveness_window BETWEEN 3 AND 86400),
    cordoned          boolean          NOT NULL,
    -- Null while the host is live: lifecycle and its one fact are one column, so that they cannot disagree.
    archived_at       timestamptz,
    generation        bigint           NOT NULL CHECK (generation >= 0),
    enrolled_at       timestamptz,
    -- The tenant's install token whose exchange made the host: only such a one can be enrolled anew by another. No foreign
    -- key, so that the token may go before its host.
    made_with         uuid,
    created_at        timestamptz      NOT NULL,
    updated_at        timestamptz      NOT NULL,
    -- What an install token's foreign key points at, and what lists a tenant's hosts in the order of their ids.
    CONSTRAINT hosts_tenant UNIQUE (tenant_id, id)
);

-- Archived hosts give their name free; the condition is `IS NULL`, not its opposite, and a test inserts both.
CREATE UNIQUE INDEX hosts_name ON hosts (tenant_id, name) WHERE archived_at IS NULL;
-- Archived hosts keep their external id: it names the machine for ever.
CREATE UNIQUE INDEX hosts_external_id ON hosts (tenant_id, external_id) WHERE external_id IS NOT NULL;

-- Of each filter an index in the order of the list, so that a page is found without a look at what it passes over. Archived
-- hosts are found by their names, too.
CREATE INDEX hosts_kind ON hosts (kind, id);
CREATE INDEX hosts_named ON hosts (name);
CREATE INDEX hosts_named_in_tenant ON hosts (tenant_id, name);

CREATE TABLE host_tags (
    host_id  uuid             NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    tag      text COLLATE "C" NOT NULL CHECK (tag <> ''),
    -- What lists and placement ask of a host besides its tag, restated: its status, and whether it is cordoned. So the few
    -- hosts of a tag and a status are found without a look at each that has the tag. Kept by the triggers below, with
    -- transitions and edits alone.
    status   text COLLATE "C" NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'online', 'unreachable', 'archived')),
    cordoned boolean          NOT NULL DEFAULT false,
    PRIMARY KEY (host_id, tag)
);

-- Filters and placement ask for the hosts of a tag.
CREATE INDEX host_tags_tag ON host_tags (tag, host_id);
CREATE INDEX host_tags_status ON host_tags (tag, status, host_id);

-- Hosts that new work may go to, as far as their own rows tell, in the order of the random part of their ids: a few behind
-- a place drawn at random are a sample. Whether a host is online is looked up, so that no transition rewrites these; among
-- those with a tag all may be silent, and their index has only those that are not.
CREATE INDEX hosts_ring ON hosts (substr(uuid_send(id), 9), id) WHERE archived_at IS NULL AND NOT cordoned;
CREATE INDEX hosts_ring_of_tenant ON hosts (tenant_id, substr(uuid_send(id), 9), id)
    WHERE archived_at IS NULL AND NOT cordoned;
CREATE INDEX hosts_ring_of_kind ON hosts (kind, substr(uuid_send(id), 9), id) WHERE archived_at IS NULL AND NOT cordoned;
CREATE INDEX host_tags_ring ON host_tags (tag, substr(uuid_send(host_id), 9), host_id)
    WHERE status = 'online' AND NOT cordoned;

-- Every hash that any token, of either sort, ever had. A hash is accepted once: also after the token's row, or its
-- host, was deleted. The tokens' foreign keys point here, so that no writer can forget it: a hash that is in the
-- register under another token's id cannot be had.
CREATE TABLE token_hashes (
    hash     bytea NOT NULL CONSTRAINT token_hashes_pkey PRIMARY KEY CHECK (octet_length(hash) = 32),
    -- A token keeps its hash.
    token_id uuid  NOT NULL CONSTRAINT token_hashes_token UNIQUE,
    CONSTRAINT token_hashes_pair UNIQUE (hash, token_id)
);

CREATE TABLE install_tokens (
    id              uuid             NOT NULL CONSTRAINT install_tokens_pkey PRIMARY KEY,
    -- Of its own only when the token is bound to a tenant; otherwise the host's revision guards it.
    revision        bigint           CHECK (revision >= 1),
    tenant_id       text COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    -- Null: bound to the tenant, and the exchange makes the host.
    host_id         uuid,
    -- SHA-256 of the token's text: the store never sees the text.
    hash            bytea            NOT NULL CONSTRAINT install_tokens_hash UNIQUE CHECK (octet_length(hash) = 32),
    credential_kind text COLLATE "C" NOT NULL CHECK (credential_kind IN ('bearer', 'refresh')),
    state           text COLLATE "C" NOT NULL CHECK (state IN ('issued', 'consumed', 'revoked')),
    -- When it came into its final state.
    state_at        timestamptz,
    claim           text COLLATE "C" CHECK (claim IN ('client', 'server')),
    -- Of the agent token for a client's claim; of the Idempotency-Key, if there was one, for a server's.
    claim_hash      bytea            CHECK (octet_length(claim_hash) = 32),
    -- What it bought. No foreign key: a tenant's token stays consumed when the host that it made is deleted.
    agent_token_id  uuid,
    created_by      text COLLATE "C" NOT NULL CHECK (created_by <> ''),
    created_at      timestamptz      NOT NULL,
    expires_at      timestamptz      NOT NULL,
    -- Whether what it bought has ended, or was deleted with its host: noted by triggers, so that looking for what is spent
    -- passes over no host that still works with what it bought, years ago.
    bought_ended    boolean          NOT NULL DEFAULT false,
    -- `InstallToken::spent_at`, restated.
    spent_at        timestamptz      GENERATED ALWAYS AS (CASE
        WHEN state = 'issued' THEN expires_at
        WHEN state = 'revoked' OR bought_ended THEN state_at
    END) STORED,
    CONSTRAINT install_tokens_hash_seen FOREIGN KEY (hash, id) REFERENCES token_hashes (hash, token_id),
    -- A token of one tenant that enrols a host of another would cross the one border that must hold: both columns.
    CONSTRAINT install_tokens_host_of_tenant FOREIGN KEY (tenant_id, host_id) REFERENCES hosts (tenant_id, id)
        ON DELETE CASCADE,
    CONSTRAINT install_tokens_revision_own CHECK ((host_id IS NULL) = (revision IS NOT NULL)),
    -- A state comes with exactly its facts: "consumed" without a claim could be consumed again by anybody.
    CONSTRAINT install_tokens_state_facts CHECK (CASE state
        WHEN 'issued'   THEN state_at IS NULL AND claim IS NULL AND agent_token_id IS NULL
        WHEN 'consumed' THEN state_at IS NOT NULL AND claim IS NOT NULL AND agent_token_id IS NOT NULL
        WHEN 'revoked'  THEN state_at IS NOT NULL AND claim IS NULL AND agent_token_id IS NULL
    END),
    -- A client's claim is its hash; only a server's may lack one.
    CONSTRAINT install_tokens_claim_facts CHECK (CASE
        WHEN claim IS NULL    THEN claim_hash IS NULL
        WHEN claim = 'client' THEN claim_hash IS NOT NULL
        ELSE TRUE
    END)
);

-- Minting revokes the earlier one: two that can be exchanged would enrol two agents on one host.
CREATE UNIQUE INDEX install_tokens_issued ON install_tokens (host_id) WHERE state = 'issued' AND host_id IS NOT NULL;
CREATE INDEX install_tokens_host ON install_tokens (host_id, id) WHERE host_id IS NOT NULL;
-- Lists those that are bound to a tenant itself.
CREATE INDEX install_tokens_of_tenant ON install_tokens (tenant_id, id) WHERE host_id IS NULL;
-- What the foreign key looks for when a host is deleted.
CREATE INDEX install_tokens_tenant ON install_tokens (tenant_id, host_id);
-- What goes by age, and whose it is that has ended.
CREATE INDEX install_tokens_spent ON install_tokens (spent_at) WHERE spent_at IS NOT NULL;
CREATE INDEX install_tokens_bought ON install_tokens (agent_token_id) WHERE agent_token_id IS NOT NULL;

CREATE TABLE agent_tokens (
    id                      uuid             NOT NULL CONSTRAINT agent_tokens_pkey PRIMARY KEY,
    host_id                 uuid             NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    lineage_id              uuid             NOT NULL,
    -- SHA-256 of the token's text: the store never sees the text.
    hash                    bytea            NOT NULL CONSTRAINT agent_tokens_hash UNIQUE
                                             CHECK (octet_length(hash) = 32),
    kind                    text COLLATE "C" NOT NULL CHECK (kind IN ('bearer', 'refresh')),
    name                    text COLLATE "C" CHECK (name <> ''),
    origin                  text COLLATE "C" NOT NULL CHECK (origin IN ('exchange', 'issued', 'proposed', 'rotated')),
    -- The tokens that a token names are not foreign keys: they may be pruned before it, and then it still names them.
    origin_install_token_id uuid,
    origin_actor_id         text COLLATE "C" CHECK (origin_actor_id <> ''),
    predecessor_id          uuid,
    state                   text COLLATE "C" NOT NULL
        CHECK (state IN ('pending', 'active', 'retired', 'displaced', 'revoked')),
    -- When it came into its state; a pending one has only `created_at`.
    state_at                timestamptz,
    -- The token that took its place: of a retired or a displaced one.
    succeeded_by            uuid,
    retired_by              text COLLATE "C" CHECK (retired_by IN ('agent', 'administrator')),
    revoke_reason           text COLLATE "C" CHECK (revoke_reason IN
        ('administrator', 'cut_off', 'host_archived', 'reenrolled', 'reuse_detected')),
    created_at              timestamptz      NOT NULL,
    expires_at              timestamptz,
    -- Contact, not identity: written coarsely, never under the revision.
    last_used_at            timestamptz,
    CONSTRAINT agent_tokens_hash_seen FOREIGN KEY (hash, id) REFERENCES token_hashes (hash, token_id),
    CONSTRAINT agent_tokens_origin_facts CHECK (CASE origin
        WHEN 'exchange' THEN origin_install_token_id IS NOT NULL AND origin_actor_id IS NULL AND predecessor_id IS NULL
        WHEN 'issued'   THEN origin_install_token_id IS NULL AND origin_actor_id IS NOT NULL AND predecessor_id IS NULL
        WHEN 'proposed' THEN origin_install_token_id IS NULL AND origin_actor_id IS NULL AND predecessor_id IS NOT NULL
        WHEN 'rotated'  THEN origin_install_token_id IS NULL AND origin_actor_id IS NOT NULL
                             AND predecessor_id IS NOT NULL
    END),
    -- A state comes with exactly its facts: "retired" without a successor could not tell a late duplicate from a theft.
    CONSTRAINT agent_tokens_state_facts CHECK (CASE state
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
);

-- Two active tokens of a lineage are two holders of one credential; two pending ones, two successors of one token.
CREATE UNIQUE INDEX agent_tokens_active ON agent_tokens (lineage_id) WHERE state = 'active';
CREATE UNIQUE INDEX agent_tokens_pending ON agent_tokens (lineage_id) WHERE state = 'pending';
CREATE INDEX agent_tokens_host ON agent_tokens (host_id, id);

CREATE FUNCTION note_bought_ended() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE install_tokens SET bought_ended = true WHERE agent_token_id = OLD.id;
    ELSE
        UPDATE install_tokens SET bought_ended = true WHERE agent_token_id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER agent_tokens_ended AFTER INSERT OR UPDATE OF state ON agent_tokens FOR EACH ROW
    WHEN (NEW.state NOT IN ('pending', 'active')) EXECUTE FUNCTION note_bought_ended();
CREATE TRIGGER agent_tokens_deleted AFTER DELETE ON agent_tokens FOR EACH ROW EXECUTE FUNCTION note_bought_ended();

-- What is left of the agent tokens of a deleted host: its agent can be told, and the hash stays refused, until both
-- rows go together. One direction only: what goes by age is the register's row, and this one with it.
CREATE TABLE tombstones (
    hash       bytea       NOT NULL PRIMARY KEY REFERENCES token_hashes (hash) ON DELETE CASCADE,
    token_id   uuid        NOT NULL,
    host_id    uuid        NOT NULL,
    deleted_at timestamptz NOT NULL
);
CREATE INDEX tombstones_deleted_at ON tombstones (deleted_at);

-- Hosts whose containers and snapshots still have to go. Until they have, the id is not given again.
CREATE TABLE deleted_hosts (
    host_id    uuid        NOT NULL PRIMARY KEY,
    deleted_at timestamptz NOT NULL
);

CREATE TABLE events (
    -- Given under an advisory lock that is held until the end of the transaction, so that the order of positions is the
    -- order of commits. A sequence: a position is never given twice, also after the newest events were pruned.
    position  bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id        uuid             NOT NULL,
    at        timestamptz      NOT NULL,
    tenant_id text COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    -- No foreign key: what happened to a host is told after it was deleted as well.
    host_id   uuid,
    host_kind text COLLATE "C" CHECK (host_kind IN ('managed', 'byoc')),
    actor_id  text COLLATE "C" CHECK (actor_id <> ''),
    type      text COLLATE "C" NOT NULL CHECK (type <> ''),
    data      json             NOT NULL,
    -- A host's event without its kind would be shown to everybody in the tenant, whatever kinds they may see.
    CONSTRAINT events_host_kind CHECK (host_id IS NULL OR host_kind IS NOT NULL)
);

-- All end in the position: a page is a range of them.
CREATE INDEX events_tenant ON events (tenant_id, position);
CREATE INDEX events_host ON events (host_id, position) WHERE host_id IS NOT NULL;
CREATE INDEX events_type ON events (type, position);
CREATE INDEX events_kind ON events (host_kind, position) WHERE host_kind IS NOT NULL;
-- Events come roughly in the order of their times: a few pages of index are enough to find the old ones.
CREATE INDEX events_at ON events USING brin (at);

-- Contact -----------------------------------------------------------------------------------------------------------

-- No foreign keys from here on, one sequence (of containers' keys, not of reports), and keys that lead with the host:
-- these tables can be distributed by host, and a deleted host's history is removed in bounded steps rather than by one
-- cascade.

-- A row of its own beside the host's: it is rewritten with every report, by another owner, and never under the
-- revision. Room on each page, and no index of what every report changes, so that rewriting touches no index.
CREATE TABLE host_presence (
    host_id            uuid             NOT NULL PRIMARY KEY,
    presence           text COLLATE "C" NOT NULL,
    -- Before all that every report writes: the log has what lies between the first and the last byte that changed.
    facts              json             NOT NULL CHECK (json_typeof(facts) = 'object'),
    -- By the server's clock.
    last_seen_at       timestamptz,
    -- When the silence was noticed.
    unreachable_since  timestamptz,
    -- `recorded_at` of the newest stored report: kept when that report itself is pruned.
    newest_report_at   timestamptz,
    -- When the newest report that named all containers arrived: the containers that are not removed were in it, so
    -- that their rows need not be rewritten to say so.
    last_complete_at   timestamptz,
    -- Raised by every write of a container row of the host, and of `facts`: whoever knows what is there compares them.
    containers_version bigint           NOT NULL,
    facts_version      bigint           NOT NULL,
    -- Whether `hosts.archived_at` is set, restated: a statement that had to wait for this row sees it as it is then, but
    -- every other row as it was when the statement began. What takes a report in one statement decides by this row alone.
    archived           boolean          NOT NULL,
    -- `hosts.liveness_window`, restated: an index of last contacts cannot look it up.
    liveness_window    bigint,
    -- What a sweep finds silent hosts by: what `last_seen_at` was a minute ago or less, or, of a host with a window of its own,
    -- when that ended then. An index of `last_seen_at` itself would have every report write to all indexes; of
    -- reports that come twice a minute or more often, this lets one a minute do so, and each host in a minute of its own.
    -- Whoever writes one of the two columns writes this one, by the function below. Neither generated nor checked: the
    -- server reads and plans the expression of either anew with each statement, which is a tenth of what a report that
    -- comes alone costs it.
    sweep_from         timestamptz,
    CONSTRAINT host_presence_facts CHECK (CASE presence
        WHEN 'pending'     THEN last_seen_at IS NULL AND unreachable_since IS NULL
        -- Without `sweep_from`, no sweep would ever find it.
        WHEN 'online'      THEN last_seen_at IS NOT NULL AND unreachable_since IS NULL AND sweep_from IS NOT NULL
        WHEN 'unreachable' THEN last_seen_at IS NOT NULL AND unreachable_since IS NOT NULL
        ELSE false
    END),
    CONSTRAINT host_presence_versions CHECK (containers_version >= 0 AND facts_version >= 0)
) WITH (fillfactor = 60);

-- From what it was before, as long as that will do: less than a minute old, and not later than what it stands for, as it is
-- where `last_seen_at` was set back by hand; that one would hide the host until then. Inlined where it stands.
CREATE FUNCTION sweep_from(before timestamptz, last_seen_at timestamptz, liveness_window bigint) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN liveness_window IS NULL THEN
            CASE WHEN before > last_seen_at - interval '1 minute' AND before <= last_seen_at THEN before ELSE last_seen_at END
        WHEN before > last_seen_at + make_interval(secs => liveness_window) - interval '1 minute'
             AND before <= last_seen_at + make_interval(secs => liveness_window) THEN before
        ELSE last_seen_at + make_interval(secs => liveness_window)
    END
$$;

-- Finds the few hosts that are online and were not heard of late, several times a minute. Those that fell are not in it:
-- they may stay for years.
CREATE INDEX host_presence_online ON host_presence (sweep_from) WHERE presence = 'online' AND liveness_window IS NULL;
CREATE INDEX host_presence_online_own ON host_presence (sweep_from)
    WHERE presence = 'online' AND liveness_window IS NOT NULL;
-- Lists by status, in the order of ids. Archived hosts keep the presence that they had, and may be many more than those that
-- are unreachable and in service. Both are written with transitions alone.
CREATE INDEX host_presence_status ON host_presence (presence, host_id) WHERE NOT archived;
CREATE INDEX host_presence_archived ON host_presence (host_id) WHERE archived;

-- What all replicas that look for silent hosts know together.
CREATE TABLE monitor (
    -- One row, ever.
    id    smallint NOT NULL PRIMARY KEY CHECK (id = 1),
    -- As `enlist_core::liveness::Monitor` writes it.
    state json     NOT NULL
);
INSERT INTO monitor (id, state) VALUES (1, '{}');

-- A host that is deleted past the store leaves what the store's deletion leaves: tombstones, the id to be cleaned up
-- behind, and no presence, so that nothing it reported is read out. The store has done all of it before, by its own
-- clock. The search path is this transaction's: whoever deletes may have another.
CREATE FUNCTION bury_host() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO tombstones (hash, token_id, host_id, deleted_at)
        SELECT hash, id, host_id, now() FROM agent_tokens WHERE host_id = OLD.id
        ON CONFLICT DO NOTHING;
    INSERT INTO deleted_hosts (host_id, deleted_at) VALUES (OLD.id, now()) ON CONFLICT DO NOTHING;
    DELETE FROM host_presence WHERE host_id = OLD.id;
    RETURN OLD;
END
$$;
CREATE TRIGGER hosts_bury BEFORE DELETE ON hosts FOR EACH ROW EXECUTE FUNCTION bury_host();

-- By a trigger, so that whoever archives, or sets a window, restates it, in the same commit. The presence of hosts is locked
-- after the hosts themselves, here as everywhere.
CREATE FUNCTION restate_host() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE host_presence SET archived = NEW.archived_at IS NOT NULL, liveness_window = NEW.liveness_window,
                             sweep_from = sweep_from(NULL, last_seen_at, NEW.liveness_window)
    WHERE host_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER hosts_restated AFTER UPDATE OF archived_at, liveness_window ON hosts FOR EACH ROW
    WHEN ((OLD.archived_at IS NULL) <> (NEW.archived_at IS NULL)
          OR OLD.liveness_window IS DISTINCT FROM NEW.liveness_window)
    EXECUTE FUNCTION restate_host();

-- By triggers as well, so that no writer can forget it: what stands beside a host's tags is written under the lock of its
-- presence, here as everywhere, by whoever changes it and by whoever adds a tag. So one of them waits for the other, and
-- sees in its next statement what that has committed. A contact of a host that is online runs none of them.
--
-- `Status::of` of core, restated: archived, else the presence.
CREATE FUNCTION status_of(archived boolean, presence text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN archived THEN 'archived' ELSE presence END
$$;
CREATE FUNCTION restate_status() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE host_tags SET status = status_of(NEW.archived, NEW.presence) WHERE host_id = NEW.host_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER host_presence_made AFTER INSERT ON host_presence FOR EACH ROW EXECUTE FUNCTION restate_status();
CREATE TRIGGER host_presence_restated AFTER UPDATE OF presence, archived ON host_presence FOR EACH ROW
    WHEN ((OLD.presence <> NEW.presence OR OLD.archived <> NEW.archived)
          AND current_setting('enlist.statuses_follow', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION restate_status();
-- The same, of many at once, for a transaction that has said so with the setting: a run of the trigger for each takes most of
-- the time of a sweep that a thousand hosts fall to. It ends the setting. The hosts are few among all; the planner, who is
-- not told how many, would read the tags of all.
CREATE FUNCTION restate_statuses(hosts uuid[]) RETURNS void LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    UPDATE host_tags AS t SET status = (
        SELECT status_of(p.archived, p.presence) FROM host_presence AS p WHERE p.host_id = t.host_id
    ) WHERE t.host_id = ANY (hosts);
    PERFORM set_config('enlist.statuses_follow', 'off', true);
END
$$;
CREATE FUNCTION restate_cordon() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM FROM host_presence WHERE host_id = NEW.id FOR UPDATE;
    UPDATE host_tags SET cordoned = NEW.cordoned WHERE host_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER hosts_cordon_restated AFTER UPDATE OF cordoned ON hosts FOR EACH ROW
    WHEN (OLD.cordoned <> NEW.cordoned) EXECUTE FUNCTION restate_cordon();
CREATE FUNCTION state_tag() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    SELECT status_of(archived, presence) INTO NEW.status FROM host_presence WHERE host_id = NEW.host_id FOR SHARE;
    SELECT cordoned INTO NEW.cordoned FROM hosts WHERE id = NEW.host_id;
    -- Of a host that has no presence yet, or is not there: the foreign key tells.
    NEW.status := coalesce(NEW.status, 'pending');
    NEW.cordoned := coalesce(NEW.cordoned, false);
    RETURN NEW;
END
$$;
CREATE TRIGGER host_tags_stated BEFORE INSERT ON host_tags FOR EACH ROW EXECUTE FUNCTION state_tag();

CREATE TABLE containers (
    host_id       uuid             NOT NULL,
    container_id  text COLLATE "C" NOT NULL CHECK (container_id <> ''),
    -- What reports name it by: 8 bytes instead of up to 128 of the engine's, in each of them. From a sequence, so that it
    -- is never given twice: a report that was kept aside does not come to name another container.
    container_key bigint           GENERATED ALWAYS AS IDENTITY,
    -- Null until a report that was the newest of its time describes the container: one that is known only from older
    -- reports, which change nothing that is listed, has a row for the sake of its key alone. So has one that was removed
    -- long ago, while there may be reports that name it.
    name          text COLLATE "C",
    image         text COLLATE "C",
    image_tag     text COLLATE "C",
    state         text COLLATE "C",
    health        text COLLATE "C",
    restarts      bigint           CHECK (restarts >= 0),
    exit_code     bigint,
    oom_killed    boolean,
    -- Null: none.
    ports         json,
    labels        json,
    started_at    timestamptz,
    finished_at   timestamptz,
    error         text COLLATE "C",
    first_seen_at timestamptz,
    -- When the row was last written for the container being there; `host_presence.last_complete_at` may be later.
    last_seen_at  timestamptz,
    removed_at    timestamptz,
    -- Of a row for the sake of its key alone: no report that names it was measured later than this. Once those until
    -- then are gone, so can it be.
    named_until   timestamptz,
    -- Also the order in which they are listed.
    PRIMARY KEY (host_id, container_id),
    CONSTRAINT containers_key UNIQUE (host_id, container_key),
    -- Half a description would be listed as a whole one.
    CONSTRAINT containers_described CHECK (
        CASE WHEN name IS NULL
        THEN named_until IS NOT NULL
            AND num_nonnulls(image, image_tag, state, health, restarts, exit_code, oom_killed, ports, labels, started_at,
                finished_at, error, first_seen_at, last_seen_at, removed_at) = 0
        ELSE named_until IS NULL AND num_nulls(image, state, first_seen_at, last_seen_at) = 0
        END)
);

-- Each report that is the newest is compared with what runs now; without this, that would cost as much as everything
-- that ever ran on a host that builds images all day.
CREATE INDEX containers_present ON containers (host_id) WHERE removed_at IS NULL AND name IS NOT NULL;
-- What goes by age.
CREATE INDEX containers_removed ON containers (removed_at) WHERE removed_at IS NOT NULL;
CREATE INDEX containers_key_only ON containers (named_until) WHERE name IS NULL;

-- A report is one row, its containers' numbers included: they are appended together, read together and dropped
-- together, and there is nothing to look up for each. Two arrays, both null when the report measured no container; an
-- element that is null is a number that is unknown. With an array for each number, each with a head of its own, a report
-- of ten containers took 1,238 bytes on disk instead of 1,115.
--
-- One partition for each UTC day, so that what is old is dropped and not deleted. There is no default partition: it would
-- have to be searched whenever a day is added. Whoever appends makes the days that it needs.
CREATE TABLE host_metric_snapshots (
    host_id                       uuid        NOT NULL,
    recorded_at                   timestamptz NOT NULL,
    received_at                   timestamptz NOT NULL,
    cpu_percent                   double precision,
    load_1m                       double precision,
    load_5m                       double precision,
    load_15m                      double precision,
    memory_used_bytes             bigint,
    memory_total_bytes            bigint,
    swap_used_bytes               bigint,
    swap_total_bytes              bigint,
    disk_used_bytes               bigint,
    disk_total_bytes              bigint,
    network_rx_bytes              bigint,
    network_tx_bytes              bigint,
    uptime_seconds                bigint,
    -- Null: none. JSON, since its names are the embedding service's.
    custom                        json,
    -- Null: the report said nothing of its agent.
    agent                         json,
    -- One for each container that was measured.
    container_cpu_cores           double precision[],
    -- Eight for each, in the same order: its key, memory_used_bytes, memory_limit_bytes, network_rx_bytes,
    -- network_tx_bytes, block_read_bytes, block_write_bytes, pids.
    container_numbers             bigint[],
    -- A report's identity, and the one index that reads need.
    PRIMARY KEY (host_id, recorded_at),
    -- Numbers that do not stand beside their container would be another's.
    CONSTRAINT host_metric_snapshots_parallel CHECK (
        CASE WHEN container_cpu_cores IS NULL
        THEN container_numbers IS NULL
        ELSE container_numbers IS NOT NULL AND cardinality(container_cpu_cores) > 0
            AND cardinality(container_numbers) = 8 * cardinality(container_cpu_cores)
        END)
) PARTITION BY RANGE (recorded_at);

-- The same by container.
CREATE VIEW container_metric_snapshots AS
SELECT snapshot.host_id, snapshot.recorded_at, container.container_id, core.cpu_cores, measured.memory_used_bytes,
       measured.memory_limit_bytes, measured.network_rx_bytes, measured.network_tx_bytes, measured.block_read_bytes,
       measured.block_write_bytes, measured.pids
FROM host_metric_snapshots AS snapshot
CROSS JOIN LATERAL (
    SELECT (n.place + 7) / 8 AS nth,
           max(n.number) FILTER (WHERE n.place % 8 = 1) AS container_key,
           max(n.number) FILTER (WHERE n.place % 8 = 2) AS memory_used_bytes,
           max(n.number) FILTER (WHERE n.place % 8 = 3) AS memory_limit_bytes,
           max(n.number) FILTER (WHERE n.place % 8 = 4) AS network_rx_bytes,
           max(n.number) FILTER (WHERE n.place % 8 = 5) AS network_tx_bytes,
           max(n.number) FILTER (WHERE n.place % 8 = 6) AS block_read_bytes,
           max(n.number) FILTER (WHERE n.place % 8 = 7) AS block_write_bytes,
           max(n.number) FILTER (WHERE n.place % 8 = 0) AS pids
    FROM unnest(snapshot.container_numbers) WITH ORDINALITY AS n (number, place)
    GROUP BY (n.place + 7) / 8
) AS measured
JOIN LATERAL unnest(snapshot.container_cpu_cores) WITH ORDINALITY AS core (cpu_cores, nth) ON core.nth = measured.nth
-- Outer: it costs nothing where the id is not asked for.
LEFT JOIN containers AS container
    ON container.host_id = snapshot.host_id AND container.container_key = measured.container_key;
