//! The tables as diesel knows them, but for those that only the connection of reports has to do with; why they are so stands
//! in `migrations/`.
//!
//! A row that is unique by its condition is read with `get_result`, not `first`: that adds `LIMIT ?`, and a statement
//! with a bound limit is compiled anew by SQLite at every use, cached or not, since the limit is part of its plan.

use diesel::{allow_tables_to_appear_in_same_query, joinable, table};

table! {
    schema_epoch (id) {
        id -> BigInt,
        epoch -> BigInt,
        probes -> BigInt,
    }
}

table! {
    hosts (id) {
        host_key -> BigInt,
        id -> Binary,
        revision -> BigInt,
        tenant_id -> Text,
        kind -> Text,
        name -> Text,
        external_id -> Nullable<Text>,
        provider -> Nullable<Text>,
        availability_zone -> Nullable<Text>,
        address -> Nullable<Text>,
        labels -> Text,
        liveness_window -> Nullable<BigInt>,
        cordoned -> Bool,
        archived_at -> Nullable<BigInt>,
        generation -> BigInt,
        enrolled_at -> Nullable<BigInt>,
        made_with -> Nullable<Binary>,
        created_at -> BigInt,
        updated_at -> BigInt,
        facts -> Text,
    }
}

table! {
    host_tags (host_id, tag) {
        host_id -> Binary,
        tag -> Text,
    }
}

table! {
    install_tokens (id) {
        id -> Binary,
        revision -> Nullable<BigInt>,
        tenant_id -> Text,
        host_id -> Nullable<Binary>,
        hash -> Binary,
        credential_kind -> Text,
        state -> Text,
        state_at -> Nullable<BigInt>,
        claim -> Nullable<Text>,
        claim_hash -> Nullable<Binary>,
        agent_token_id -> Nullable<Binary>,
        created_by -> Text,
        created_at -> BigInt,
        expires_at -> BigInt,
        spent_at -> Nullable<BigInt>,
    }
}

table! {
    agent_tokens (id) {
        id -> Binary,
        host_id -> Binary,
        lineage_id -> Binary,
        hash -> Binary,
        kind -> Text,
        name -> Nullable<Text>,
        origin -> Text,
        origin_install_token_id -> Nullable<Binary>,
        origin_actor_id -> Nullable<Text>,
        predecessor_id -> Nullable<Binary>,
        state -> Text,
        state_at -> Nullable<BigInt>,
        succeeded_by -> Nullable<Binary>,
        retired_by -> Nullable<Text>,
        revoke_reason -> Nullable<Text>,
        created_at -> BigInt,
        expires_at -> Nullable<BigInt>,
        last_used_at -> Nullable<BigInt>,
    }
}

table! {
    events (position) {
        position -> BigInt,
        id -> Binary,
        at -> BigInt,
        tenant_id -> Text,
        host_id -> Nullable<Binary>,
        host_kind -> Nullable<Text>,
        actor_id -> Nullable<Text>,
        #[sql_name = "type"]
        kind -> Text,
        data -> Text,
    }
}

table! {
    host_presence (host_key) {
        host_key -> BigInt,
        host_id -> Binary,
        presence -> Text,
        last_seen_at -> Nullable<BigInt>,
        unreachable_since -> Nullable<BigInt>,
        newest_report_at -> Nullable<BigInt>,
        newest_report_id -> Nullable<BigInt>,
        last_complete_at -> Nullable<BigInt>,
        containers_version -> BigInt,
        liveness_window -> Nullable<BigInt>,
    }
}

table! {
    host_metric_snapshots (report_id) {
        report_id -> BigInt,
        host_key -> BigInt,
        recorded_at -> BigInt,
        received_at -> BigInt,
        cpu_percent -> Nullable<Double>,
        load_1m -> Nullable<Double>,
        load_5m -> Nullable<Double>,
        load_15m -> Nullable<Double>,
        memory_used_bytes -> Nullable<BigInt>,
        memory_total_bytes -> Nullable<BigInt>,
        swap_used_bytes -> Nullable<BigInt>,
        swap_total_bytes -> Nullable<BigInt>,
        disk_used_bytes -> Nullable<BigInt>,
        disk_total_bytes -> Nullable<BigInt>,
        network_rx_bytes -> Nullable<BigInt>,
        network_tx_bytes -> Nullable<BigInt>,
        uptime_seconds -> Nullable<BigInt>,
        custom -> Nullable<Text>,
        agent -> Nullable<Text>,
    }
}

table! {
    tombstones (hash) {
        hash -> Binary,
        token_id -> Binary,
        host_id -> Binary,
        deleted_at -> BigInt,
    }
}

table! {
    deleted_hosts (host_id) {
        host_id -> Binary,
        host_key -> BigInt,
        deleted_at -> BigInt,
    }
}

table! {
    credential_changes (change_id) {
        change_id -> BigInt,
        hash -> Binary,
    }
}

// Not ours: what is in the file, and which migrations diesel has applied to it.
table! {
    sqlite_master (name) {
        name -> Text,
        #[sql_name = "type"]
        kind -> Text,
    }
}

table! {
    __diesel_schema_migrations (version) {
        version -> Text,
    }
}

joinable!(agent_tokens -> hosts (host_id));

allow_tables_to_appear_in_same_query!(hosts, host_presence, host_tags, agent_tokens);
