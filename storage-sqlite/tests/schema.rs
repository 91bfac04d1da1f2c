//! The schema defends itself: what no state machine has is refused to whoever writes past the store.

mod common;

use common::{File, Hand};
use enlist_core::agent_token::AgentTokenState;
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::Host;
use enlist_core::install_token::Binding;
use enlist_core::store::{Commit, Expected, HostWrite, Store, Write};

/// A host of tenant `acme` with one Active agent token, one Issued install token, and one event.
async fn enrolled() -> (File, Hand, Host) {
    let file = File::migrated().await;
    let store = file.open().await;
    let host = sample::host("a");
    let active = AgentTokenState::Active { since: at(2) };
    let token = enlist_core::agent_token::AgentToken { state: active, ..sample::agent_token(&host) };
    let write = HostWrite {
        agent_tokens: vec![token],
        install_tokens: vec![sample::install_token(&host)],
        ..HostWrite::new(Expected::Absent, host.clone())
    };
    store.commit(Commit::of(write, vec![sample::event(&host)])).await.unwrap();
    let hand = file.by_hand();
    (file, hand, host)
}

/// A copy of the host's agent token under an id and a hash of its own, with some columns said otherwise.
fn another_agent_token(lineage: &str, state: &str, state_at: &str) -> String {
    format!(
        "INSERT INTO agent_tokens (id, host_id, lineage_id, hash, kind, origin, origin_actor_id, state, state_at, created_at)
         SELECT randomblob(16), host_id, {lineage}, randomblob(32), kind, origin, origin_actor_id, {state}, {state_at},
                created_at
         FROM agent_tokens LIMIT 1"
    )
}

#[tokio::test]
async fn a_second_active_token_of_a_lineage_is_refused() {
    let (_file, mut hand, _) = enrolled().await;
    let refusal = hand.refusal(&another_agent_token("lineage_id", "'active'", "state_at"));
    assert!(refusal.contains("agent_tokens.lineage_id"), "{refusal}");
    hand.run(&another_agent_token("randomblob(16)", "'active'", "state_at"));
}

#[tokio::test]
async fn a_second_pending_token_of_a_lineage_is_refused() {
    let (_file, mut hand, _) = enrolled().await;
    // One Active and one Pending stand side by side: that is a rotation.
    hand.run(&another_agent_token("lineage_id", "'pending'", "NULL"));
    let refusal = hand.refusal(&another_agent_token("lineage_id", "'pending'", "NULL"));
    assert!(refusal.contains("agent_tokens.lineage_id"), "{refusal}");
}

#[tokio::test]
async fn ended_tokens_of_a_lineage_are_as_many_as_there_were() {
    let (_file, mut hand, _) = enrolled().await;
    hand.run("UPDATE agent_tokens SET state = 'revoked', revoke_reason = 'administrator'");
    let copy = "INSERT INTO agent_tokens (id, host_id, lineage_id, hash, kind, origin, origin_actor_id, state, state_at,
                                          revoke_reason, created_at)
                SELECT randomblob(16), host_id, lineage_id, randomblob(32), kind, origin, origin_actor_id, state, state_at,
                       revoke_reason, created_at
                FROM agent_tokens LIMIT 1";
    hand.run(copy);
    hand.run(copy);
}

#[tokio::test]
async fn a_second_issued_install_token_of_a_host_is_refused() {
    let (_file, mut hand, _) = enrolled().await;
    let copy = |host: &str, revision: &str| {
        format!(
            "INSERT INTO install_tokens (id, revision, tenant_id, host_id, hash, credential_kind, state, created_by,
                                         created_at, expires_at)
             SELECT randomblob(16), {revision}, tenant_id, {host}, randomblob(32), credential_kind, state, created_by,
                    created_at, expires_at
             FROM install_tokens LIMIT 1"
        )
    };
    let refusal = hand.refusal(&copy("host_id", "NULL"));
    assert!(refusal.contains("install_tokens.host_id"), "{refusal}");
    // A tenant's are as many as it likes; each is an aggregate, with a revision.
    hand.run(&copy("NULL", "1"));
    hand.run(&copy("NULL", "1"));
    hand.refusal(&copy("NULL", "NULL"));
}

#[tokio::test]
async fn a_hash_is_seen_once_over_both_sorts_of_token_and_also_after_its_row_is_gone() {
    let (_file, mut hand, _) = enrolled().await;
    let with_hash =
        |hash: &str| another_agent_token("randomblob(16)", "'pending'", "NULL").replace("randomblob(32)", hash);
    for hash in ["hash", "(SELECT hash FROM install_tokens)"] {
        let refusal = hand.refusal(&with_hash(hash));
        assert!(refusal.contains("token_hashes.hash"), "{refusal}");
    }
    hand.run("CREATE TABLE gone AS SELECT hash FROM install_tokens; DELETE FROM install_tokens;");
    let refusal = hand.refusal(&with_hash("(SELECT hash FROM gone)"));
    assert!(refusal.contains("token_hashes.hash"), "{refusal}");
}

#[tokio::test]
async fn a_token_keeps_its_hash_and_a_hash_stays_seen() {
    let (_file, mut hand, _) = enrolled().await;
    for sql in [
        "UPDATE agent_tokens SET hash = randomblob(32)",
        "UPDATE install_tokens SET hash = randomblob(32)",
        "UPDATE token_hashes SET hash = randomblob(32)",
    ] {
        hand.refusal(sql);
    }
}

#[tokio::test]
async fn a_state_of_an_agent_token_comes_with_exactly_its_facts() {
    let (_file, mut hand, _) = enrolled().await;
    for set in [
        "state = 'pending'",
        "state_at = NULL",
        "state = 'retired', succeeded_by = randomblob(16)",
        "state = 'retired', retired_by = 'agent'",
        "state = 'displaced'",
        "state = 'displaced', succeeded_by = randomblob(16), retired_by = 'agent'",
        "state = 'revoked'",
        "revoke_reason = 'administrator'",
        "state = 'revoked', revoke_reason = 'boredom'",
        "state = 'lost'",
        "origin = 'exchange'",
        "origin = 'rotated'",
        "origin = 'proposed', origin_actor_id = NULL",
        "id = randomblob(15)",
        "lineage_id = randomblob(17)",
    ] {
        let refusal = hand.refusal(&format!("UPDATE agent_tokens SET {set}"));
        assert!(refusal.contains("CHECK"), "{set}: {refusal}");
    }
    hand.run("UPDATE agent_tokens SET state = 'retired', succeeded_by = randomblob(16), retired_by = 'agent'");
}

#[tokio::test]
async fn a_consumed_install_token_has_a_claim_a_time_and_what_it_bought() {
    let (_file, mut hand, _) = enrolled().await;
    for set in [
        "state = 'consumed'",
        "state = 'consumed', state_at = 1, agent_token_id = randomblob(16)",
        "state = 'consumed', state_at = 1, claim = 'client', claim_hash = randomblob(32)",
        "state = 'consumed', claim = 'client', claim_hash = randomblob(32), agent_token_id = randomblob(16)",
        "state = 'consumed', state_at = 1, claim = 'client', agent_token_id = randomblob(16)",
        "state = 'consumed', state_at = 1, claim = 'client', claim_hash = randomblob(31), agent_token_id = randomblob(16)",
        "state = 'revoked'",
        "state = 'revoked', state_at = 1, claim = 'server'",
        "state_at = 1",
        "claim_hash = randomblob(32)",
    ] {
        let refusal = hand.refusal(&format!("UPDATE install_tokens SET {set}"));
        assert!(refusal.contains("CHECK"), "{set}: {refusal}");
    }
    // A server's claim may have had no Idempotency-Key.
    hand.run(
        "UPDATE install_tokens SET state = 'consumed', state_at = 1, claim = 'server', agent_token_id = randomblob(16)",
    );
}

#[tokio::test]
async fn an_install_token_enrols_no_host_of_another_tenant() {
    let (file, mut hand, host) = enrolled().await;
    assert!(hand.refusal("UPDATE install_tokens SET tenant_id = 'other'").contains("FOREIGN KEY"));
    // Nor through the store.
    let foreign =
        enlist_core::install_token::InstallToken { tenant_id: sample::tenant("other"), ..sample::install_token(&host) };
    let mut write = sample::write(enlist_core::store::Revision::FIRST, &host);
    hand.run("DELETE FROM install_tokens");
    write.install_tokens = vec![foreign];
    let refused = file.open().await.commit(Commit::of(write, Vec::new())).await.unwrap_err();
    assert_eq!(refused.kind(), enlist_core::store::StoreErrorKind::Invalid);
}

#[tokio::test]
async fn a_token_is_written_with_the_aggregate_that_it_belongs_to() {
    let (file, _hand, host) = enrolled().await;
    let store = file.open().await;
    let of_host = Write::TenantInstallToken { expected: Expected::Absent, token: sample::install_token(&host) };
    let mut of_tenant = sample::write(enlist_core::store::Revision::FIRST, &host);
    of_tenant.install_tokens =
        vec![enlist_core::install_token::InstallToken { binding: Binding::Tenant, ..sample::install_token(&host) }];
    let mut of_other = sample::write(enlist_core::store::Revision::FIRST, &host);
    of_other.agent_tokens = vec![sample::agent_token(&sample::host("b"))];
    for write in [of_host, of_tenant.into(), of_other.into()] {
        let refused = store.commit(Commit::of(write, Vec::new())).await.unwrap_err();
        assert_eq!(refused.kind(), enlist_core::store::StoreErrorKind::Invalid);
    }
}

#[tokio::test]
async fn nothing_is_without_a_tenant() {
    let (_file, mut hand, _) = enrolled().await;
    for table in ["hosts", "install_tokens", "events"] {
        assert!(hand.refusal(&format!("UPDATE {table} SET tenant_id = NULL")).contains("NOT NULL"), "{table}");
        assert!(hand.refusal(&format!("UPDATE {table} SET tenant_id = ''")).contains("CHECK"), "{table}");
    }
}

#[tokio::test]
async fn a_hosts_event_names_the_kind_that_a_scope_asks_for() {
    let (_file, mut hand, _) = enrolled().await;
    assert!(hand.refusal("UPDATE events SET host_kind = NULL").contains("CHECK"));
    hand.run("UPDATE events SET host_kind = NULL, host_id = NULL");
}

#[tokio::test]
async fn presence_comes_with_exactly_its_facts() {
    let (_file, mut hand, _) = enrolled().await;
    for set in [
        "presence = 'online'",
        "presence = 'unreachable', last_seen_at = 1, sweep_from = 1",
        "last_seen_at = 1, sweep_from = 1",
        "presence = 'online', last_seen_at = 1, sweep_from = 1, unreachable_since = 1",
        "presence = 'online', last_seen_at = 60000001, sweep_from = 1",
        "presence = 'online', last_seen_at = 60000001, sweep_from = 60000002",
        "presence = 'online', last_seen_at = 1",
        "sweep_from = 1",
        "newest_report_id = 1",
    ] {
        assert!(hand.refusal(&format!("UPDATE host_presence SET {set}")).contains("CHECK"), "{set}");
    }
    hand.run("UPDATE host_presence SET presence = 'online', last_seen_at = 60000000, sweep_from = 1");
}

/// Whoever sets it, so that a process of the version before and a hand at the prompt do it too.
#[tokio::test]
async fn a_hosts_window_is_restated_where_it_is_looked_for_and_within_bounds() {
    let (_file, mut hand, _) = enrolled().await;
    for window in [Some("7"), Some("86400"), None] {
        hand.run(&format!("UPDATE hosts SET liveness_window = {}", window.unwrap_or("NULL")));
        let restated = hand.column("SELECT liveness_window AS value FROM host_presence");
        assert_eq!(restated, [window.map(str::to_owned)]);
    }
    // What sweeps find it by, too.
    hand.run("UPDATE host_presence SET presence = 'online', last_seen_at = 61000000, sweep_from = 31000000");
    for (window, from) in [("59", "120000000"), ("58", "119000000"), ("NULL", "61000000")] {
        hand.run(&format!("UPDATE hosts SET liveness_window = {window}"));
        assert_eq!(hand.column("SELECT sweep_from AS value FROM host_presence"), [Some(from.to_owned())], "{window}");
    }
    for window in [2, 86_401] {
        assert!(hand.refusal(&format!("UPDATE hosts SET liveness_window = {window}")).contains("CHECK"), "{window}");
    }
}

#[tokio::test]
async fn every_table_is_strict() {
    let (_file, mut hand, _) = enrolled().await;
    let loose = hand.column(
        "SELECT name AS value FROM pragma_table_list
         WHERE type = 'table' AND NOT strict AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '__diesel_%'",
    );
    assert_eq!(loose, Vec::<Option<String>>::new());
}

/// An index more on a snapshot table costs every report, for ever.
#[tokio::test]
async fn contact_tables_have_the_documented_indexes_and_no_others() {
    let (_file, mut hand, _) = enrolled().await;
    let indexes = hand.column(
        "SELECT m.name || '(' || (SELECT group_concat(coalesce(i.name, 'an expression'), ',') FROM pragma_index_info(l.name) i) || ')' AS value
         FROM sqlite_master m, pragma_index_list(m.name) l
         WHERE m.type = 'table'
           AND m.name IN ('host_presence', 'containers', 'host_metric_snapshots', 'report_containers',
                          'report_containers_more')
         ORDER BY 1",
    );
    let expected = [
        "containers(host_id)",
        "containers(host_id,container_id)",
        "containers(named_until)",
        "containers(removed_at)",
        "host_metric_snapshots(host_key,recorded_at)",
        "host_presence(archived,host_id)",
        "host_presence(archived,presence,host_id)",
        "host_presence(host_id)",
        "host_presence(sweep_from)",
        "host_presence(sweep_from)",
        "report_containers_more(report_id,container_key)",
    ];
    assert_eq!(indexes.into_iter().flatten().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn whether_a_host_is_archived_is_restated_with_its_presence() {
    let (_file, mut hand, _) = enrolled().await;
    let restated = |hand: &mut Hand| hand.column("SELECT archived || '' AS value FROM host_presence").remove(0);
    assert_eq!(restated(&mut hand).as_deref(), Some("0"));
    hand.run("UPDATE hosts SET archived_at = 1");
    assert_eq!(restated(&mut hand).as_deref(), Some("1"));
    hand.run("UPDATE hosts SET archived_at = 2; UPDATE hosts SET cordoned = 1");
    assert_eq!(restated(&mut hand).as_deref(), Some("1"));
    // Of a presence that comes after its host, too.
    hand.run(
        "CREATE TEMP TABLE row AS SELECT * FROM host_presence;
         UPDATE temp.row SET archived = 0;
         DELETE FROM host_presence;
         INSERT INTO host_presence SELECT * FROM temp.row;",
    );
    assert_eq!(restated(&mut hand).as_deref(), Some("1"));
    hand.run("UPDATE hosts SET archived_at = NULL");
    assert_eq!(restated(&mut hand).as_deref(), Some("0"));
}

const ENTER: &str = "INSERT INTO deleted_hosts SELECT host_id, host_key, 1 FROM host_presence";

/// Whoever writes it, also one of the version before, and also by the cascade of its host.
#[tokio::test]
async fn an_agent_token_that_ends_is_entered_for_subscriptions() {
    let (_file, mut hand, _) = enrolled().await;
    hand.run("UPDATE agent_tokens SET state = 'active', last_used_at = 1, expires_at = 2");
    hand.run(&another_agent_token("randomblob(16)", "'pending'", "NULL"));
    assert_eq!(hand.count("credential_changes"), 0);
    hand.run("UPDATE agent_tokens SET state = 'revoked', revoke_reason = 'administrator' WHERE state = 'active'");
    assert_eq!(hand.count("credential_changes"), 1);
    let told = hand.column("SELECT state AS value FROM agent_tokens JOIN credential_changes USING (hash)");
    assert_eq!(told, [Some("revoked".to_owned())]);
    // A use that is noted late cuts nothing off.
    hand.run("UPDATE agent_tokens SET last_used_at = 2");
    assert_eq!(hand.count("credential_changes"), 1);
    let ended = another_agent_token("randomblob(16)", "'displaced'", "1")
        .replace("state_at,", "state_at, succeeded_by,")
        .replace("1,", "1, randomblob(16),");
    hand.run(&ended);
    assert_eq!(hand.count("credential_changes"), 2);
    hand.run("DELETE FROM agent_tokens WHERE state = 'displaced'");
    assert_eq!(hand.count("credential_changes"), 3);
    hand.run(ENTER);
    hand.run("DELETE FROM hosts");
    assert_eq!(hand.count("agent_tokens"), 0);
    assert_eq!(hand.count("credential_changes"), 5);
}

#[tokio::test]
async fn a_host_goes_only_once_its_history_is_to_be_removed_and_its_id_does_not_come_back() {
    let (_file, mut hand, _) = enrolled().await;
    assert!(hand.refusal("DELETE FROM hosts").contains("deleted_hosts"));
    hand.run("CREATE TEMP TABLE gone AS SELECT * FROM hosts");
    hand.run("CREATE TEMP TABLE presence AS SELECT * FROM host_presence");
    assert!(hand.refusal("UPDATE host_presence SET host_key = host_key + 1").contains("keeps its key"));
    // Under another key its snapshots would never be found.
    hand.run("INSERT INTO deleted_hosts SELECT host_id, host_key + 1, 1 FROM host_presence");
    assert!(hand.refusal("DELETE FROM hosts").contains("deleted_hosts"));
    hand.run("DELETE FROM deleted_hosts");
    hand.run(ENTER);
    hand.run("DELETE FROM hosts");
    assert!(hand.refusal("INSERT INTO hosts SELECT * FROM gone").contains("not given again"));
    // Nor its key to another one, which would be shown its past.
    assert!(hand.refusal("INSERT INTO host_presence SELECT * FROM presence").contains("not given again"));
    hand.run("DELETE FROM deleted_hosts; INSERT INTO hosts SELECT * FROM gone;");
}

/// What snapshots name a host by is one number in both of its rows, for ever, and never another host's.
#[tokio::test]
async fn a_host_and_its_presence_have_one_key_that_nobody_had_before() {
    let (_file, mut hand, _) = enrolled().await;
    let keys = |hand: &mut Hand| hand.column("SELECT group_concat(host_key) AS value FROM hosts").remove(0);
    assert_eq!(keys(&mut hand).as_deref(), Some("1"));
    assert!(hand.refusal("UPDATE hosts SET host_key = 7").contains("keeps its key"));
    hand.run("CREATE TEMP TABLE presence AS SELECT * FROM host_presence; DELETE FROM host_presence");
    hand.run("UPDATE temp.presence SET host_key = 7");
    assert!(hand.refusal("INSERT INTO host_presence SELECT * FROM presence").contains("the key of its host"));
    hand.run("UPDATE temp.presence SET host_key = 1; INSERT INTO host_presence SELECT * FROM temp.presence");

    hand.run("CREATE TEMP TABLE gone AS SELECT * FROM hosts");
    hand.run(ENTER);
    hand.run("DELETE FROM hosts; DELETE FROM deleted_hosts");
    hand.run("UPDATE temp.gone SET host_key = NULL; INSERT INTO hosts SELECT * FROM temp.gone");
    assert_eq!(keys(&mut hand).as_deref(), Some("2"));
}

/// The bundled SQLite is compiled with what `.cargo/config.toml` says, of which the benches' figures are.
#[tokio::test]
async fn connections_share_no_lock_over_their_pages() {
    let file = File::migrated().await;
    let options = file.by_hand().column("SELECT compile_options AS value FROM pragma_compile_options");
    let has = |option: &str| options.iter().flatten().any(|own| own == option);
    let as_asked = !has("ENABLE_MEMORY_MANAGEMENT") && has("DEFAULT_MEMSTATUS=0");
    assert!(as_asked, "build it with the LIBSQLITE3_FLAGS of .cargo/config.toml, not with {options:#?}");
}

#[tokio::test]
async fn a_hash_is_forgotten_with_its_tombstone_and_not_before() {
    let (_file, mut hand, _) = enrolled().await;
    assert!(
        hand.refusal("DELETE FROM token_hashes WHERE hash = (SELECT hash FROM agent_tokens)").contains("stays seen")
    );
    assert!(
        hand.refusal("DELETE FROM token_hashes WHERE hash = (SELECT hash FROM install_tokens)").contains("stays seen")
    );
    hand.run("INSERT INTO tombstones SELECT hash, id, host_id, 1 FROM agent_tokens");
    hand.run(ENTER);
    hand.run("DELETE FROM hosts");
    assert!(hand.refusal("DELETE FROM token_hashes WHERE hash = (SELECT hash FROM tombstones)").contains("stays seen"));
    assert_eq!(hand.count("token_hashes"), 2);
    hand.run("DELETE FROM tombstones");
    // The install token's is never forgotten.
    assert_eq!(hand.count("token_hashes"), 1);
}
