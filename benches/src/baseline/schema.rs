//! The tables as such services usually have them: surrogate keys, and an index for each question.

/// The tables, with the engine's words for a key of an integer, for one that it makes up, and for bytes.
pub(super) fn tables(given_key: &str, made_key: &str, bytes: &str) -> String {
    TABLES.replace("GIVEN_KEY", given_key).replace("MADE_KEY", made_key).replace("BYTES", bytes)
}

const TABLES: &str = "
CREATE TABLE hosts (
    id             GIVEN_KEY,
    name           TEXT NOT NULL UNIQUE,
    cpu_count      BIGINT,
    memory_total_bytes BIGINT,
    os             TEXT,
    kernel         TEXT,
    arch           TEXT,
    docker_version TEXT,
    agent_version  TEXT,
    last_seen_at   BIGINT
);
CREATE TABLE agent_tokens (
    hash       BYTES PRIMARY KEY,
    host_id    BIGINT NOT NULL REFERENCES hosts (id),
    revoked_at BIGINT
);
CREATE TABLE containers (
    id           MADE_KEY,
    host_id      BIGINT NOT NULL REFERENCES hosts (id),
    container_id TEXT NOT NULL,
    name         TEXT NOT NULL,
    image        TEXT NOT NULL,
    image_tag    TEXT,
    state        TEXT NOT NULL,
    health       TEXT,
    restarts     BIGINT,
    exit_code    BIGINT,
    oom_killed   BOOLEAN,
    ports        TEXT,
    labels       TEXT,
    error        TEXT,
    last_seen_at BIGINT NOT NULL,
    UNIQUE (host_id, container_id)
);
CREATE TABLE host_snapshots (
    id                 MADE_KEY,
    host_id            BIGINT NOT NULL REFERENCES hosts (id),
    recorded_at        BIGINT NOT NULL,
    received_at        BIGINT NOT NULL,
    cpu_percent        DOUBLE PRECISION,
    load_1m            DOUBLE PRECISION,
    load_5m            DOUBLE PRECISION,
    load_15m           DOUBLE PRECISION,
    memory_used_bytes  BIGINT,
    memory_total_bytes BIGINT,
    swap_used_bytes    BIGINT,
    swap_total_bytes   BIGINT,
    disk_used_bytes    BIGINT,
    disk_total_bytes   BIGINT,
    network_rx_bytes   BIGINT,
    network_tx_bytes   BIGINT,
    uptime_seconds     BIGINT,
    UNIQUE (host_id, recorded_at)
);
CREATE TABLE container_snapshots (
    id                 MADE_KEY,
    container_id       BIGINT NOT NULL REFERENCES containers (id),
    recorded_at        BIGINT NOT NULL,
    cpu_cores          DOUBLE PRECISION,
    memory_used_bytes  BIGINT,
    memory_limit_bytes BIGINT,
    network_rx_bytes   BIGINT,
    network_tx_bytes   BIGINT,
    block_read_bytes   BIGINT,
    block_write_bytes  BIGINT,
    pids               BIGINT
);
CREATE INDEX container_snapshots_container ON container_snapshots (container_id, recorded_at);
";

pub(super) const HOST_OF_TOKEN: &str = "SELECT host_id FROM agent_tokens WHERE hash = $1 AND revoked_at IS NULL";

pub(super) const INSERT_HOST: &str = "INSERT INTO hosts (id, name) VALUES ($1, $2)";

pub(super) const INSERT_TOKEN: &str = "INSERT INTO agent_tokens (hash, host_id) VALUES ($1, $2)";

pub(super) const SNAPSHOT: &str = "
INSERT INTO host_snapshots (host_id, recorded_at, received_at, cpu_percent, load_1m, load_5m, load_15m,
    memory_used_bytes, memory_total_bytes, swap_used_bytes, swap_total_bytes, disk_used_bytes, disk_total_bytes,
    network_rx_bytes, network_tx_bytes, uptime_seconds)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT (host_id, recorded_at) DO NOTHING";

pub(super) const SEEN: &str = "
UPDATE hosts SET last_seen_at = $2, cpu_count = COALESCE($3, cpu_count),
    memory_total_bytes = COALESCE($4, memory_total_bytes), os = COALESCE($5, os), kernel = COALESCE($6, kernel),
    arch = COALESCE($7, arch), docker_version = COALESCE($8, docker_version),
    agent_version = COALESCE($9, agent_version)
WHERE id = $1";

pub(super) const CONTAINER: &str = "
INSERT INTO containers (host_id, container_id, name, image, image_tag, state, health, restarts, exit_code, oom_killed,
    ports, labels, error, last_seen_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (host_id, container_id) DO UPDATE SET name = excluded.name, image = excluded.image,
    image_tag = excluded.image_tag, state = excluded.state, health = excluded.health, restarts = excluded.restarts,
    exit_code = excluded.exit_code, oom_killed = excluded.oom_killed, ports = excluded.ports,
    labels = excluded.labels, error = excluded.error, last_seen_at = excluded.last_seen_at
RETURNING id";

pub(super) const CONTAINER_SNAPSHOT: &str = "
INSERT INTO container_snapshots (container_id, recorded_at, cpu_cores, memory_used_bytes, memory_limit_bytes,
    network_rx_bytes, network_tx_bytes, block_read_bytes, block_write_bytes, pids)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
