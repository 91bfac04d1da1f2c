//! Reports of hosts that go on as they did: which are taken by the one statement, and what may come in between.

mod common;

use common::watched::{Watched, accepted, machine, spawn, stopped, with_facts};
use common::{SOMEBODY_WAITS, everything, full_report};
use enlist_core::conformance::sample::{self, at};
use enlist_core::host::{Host, HostName, Lifecycle, Presence};
use enlist_core::store::{AppendOutcome, ContainerQuery, Revision, Store};
use enlist_core::telemetry::{HostFacts, Report};
use enlist_storage_postgres::PgStore;

async fn go_on(watched: &mut Watched, store: &PgStore) {
    let agents = watched.hosts(3).await;
    accepted(store, agents.iter().map(|agent| agent.append(with_facts(1, machine())))).await;
    watched.ways().await;
    // Alone and in groups, complete or not, with a use of the token to note and without.
    accepted(store, [agents[0].append(with_facts(2, machine()))]).await;
    accepted(store, [agents[0].append(full_report(100))]).await;
    let partly = |seconds| Report {
        containers: vec![sample::container("b")],
        containers_complete: false,
        ..full_report(seconds)
    };
    accepted(store, agents.iter().map(|agent| agent.append(with_facts(101, machine())))).await;
    accepted(store, agents.iter().rev().map(|agent| agent.append(partly(102)))).await;
    accepted(store, [agents[1].append(with_facts(103, machine()))]).await;
    accepted(store, [agents[1].append(sample::report(at(104)))]).await;
    let seconds = [2, 100, 101, 101, 101, 102, 102, 102, 103, 104];
    assert_eq!(watched.ways().await, seconds.map(|seconds| format!("{seconds} statement")));
    for (place, agent) in agents.iter().enumerate() {
        let newest = if agent.host.id == agents[1].host.id { at(104) } else { at(102) };
        let presence = agent.record(store).await.presence;
        assert_eq!(presence.presence, Presence::Online { last_seen_at: newest });
        assert_eq!(
            (presence.newest_report_at, presence.facts, presence.containers_version),
            (Some(newest), machine(), 1)
        );
        assert_eq!(agent.states(store).await.len(), 3);
        // The newest complete one had them all.
        let complete = if agent.host.id == agents[1].host.id { at(103) } else { at(101) };
        let query = ContainerQuery { host_id: agent.host.id, removed: false, after: None, limit: 10 };
        let containers = store.list_containers(&query).await.unwrap().items;
        assert!(containers.iter().all(|container| container.last_seen_at == complete), "{containers:?}");
        let last_use = if agent.host.id == agents[0].host.id { at(100) } else { at(101) };
        assert_eq!(agent.last_use(store).await, Some(last_use));
        let stored = store.list_telemetry(&everything(&agent.host)).await.unwrap().items;
        let alone = match place {
            0 => vec![full_report(100)],
            1 => vec![full_report(103), sample::report(at(104))],
            _ => Vec::new(),
        };
        for report in alone.iter().chain([&full_report(101)]) {
            let found = stored.iter().find(|snapshot| snapshot.recorded_at == report.recorded_at);
            assert!(found.expect("it is stored").repeats(report), "{found:?}");
        }
    }
}

#[tokio::test]
async fn hosts_that_go_on_as_they_did_cost_one_statement() {
    let mut watched = Watched::new().await;
    let store = watched.store.clone();
    go_on(&mut watched, &store).await;
}

#[tokio::test]
async fn behind_a_pooler_it_is_one_statement_too() {
    let mut watched = Watched::new().await;
    let store = watched.server.open_through_pooler();
    go_on(&mut watched, &store).await;
    // In a transaction, whose settings show: a statement is prepared and run by two messages.
    let agents = watched.steady_hosts(1).await;
    accepted(&watched.store, [agents[0].append(sample::report(at(2)))]).await;
    store.append(vec![agents[0].append(sample::report(at(3)))]).await.unwrap();
    let settings = watched.hand.column("SELECT split_part(settings, ' ', 3) FROM ways ORDER BY place").await;
    assert_eq!(settings.into_iter().flatten().collect::<Vec<_>>(), ["0", "8s"]);
    assert_eq!(watched.ways().await, ["2 statement", "3 statement"]);
}

#[tokio::test]
async fn a_host_that_changes_is_looked_at() {
    let mut watched = Watched::new().await;
    let store = watched.store.clone();
    // The host was never heard.
    let agent = watched.steady_hosts(1).await.remove(0);
    let step = async |watched: &mut Watched, report: Report, way: &str| {
        let way = format!("{} {way}", report.recorded_at.unix_micros() / 1_000_000 - at(0).unix_micros() / 1_000_000);
        accepted(&store, [agent.append(report)]).await;
        assert_eq!(watched.ways().await, [way]);
    };
    step(&mut watched, stopped(2), "transaction").await;
    step(&mut watched, stopped(3), "statement").await;
    // One that is missing from a complete report; one that is new.
    let two =
        |seconds| Report { containers: vec![sample::container("a"), sample::container("c")], ..full_report(seconds) };
    step(&mut watched, two(4), "transaction").await;
    assert_eq!(agent.states(&store).await.len(), 2);
    step(&mut watched, two(5), "statement").await;
    step(&mut watched, full_report(6), "transaction").await;
    assert_eq!(agent.states(&store).await.len(), 3);
    // Facts.
    step(&mut watched, with_facts(7, machine()), "transaction").await;
    step(&mut watched, with_facts(8, machine()), "statement").await;
    let other = HostFacts { os: Some("Debian GNU/Linux 13".to_owned()), ..HostFacts::default() };
    step(&mut watched, with_facts(9, other), "transaction").await;
    assert_eq!(agent.record(&store).await.presence.facts.os.as_deref(), Some("Debian GNU/Linux 13"));
    // A part of what is known, which changes nothing; what `jsonb` cannot hold.
    let part = HostFacts { os: Some("a\0b".to_owned()), ..HostFacts::default() };
    for (seconds, facts) in [(10, HostFacts { cpu_count: None, ..machine() }), (12, part)] {
        step(&mut watched, with_facts(seconds, facts.clone()), "transaction").await;
        step(&mut watched, with_facts(seconds + 1, facts), "statement").await;
    }
    assert_eq!(agent.record(&store).await.presence.facts, HostFacts { os: Some("a\0b".to_owned()), ..machine() });
    // A day that this store has not seen.
    step(&mut watched, full_report(86_400), "transaction").await;
    step(&mut watched, full_report(86_401), "statement").await;
    // One from before; one again; another one of the same time.
    step(&mut watched, full_report(14), "transaction").await;
    let mut other = full_report(86_401);
    other.host.metrics.cpu_percent = Some(1.0);
    let repeats = vec![agent.append(full_report(86_401)), agent.append(other)];
    for (repeat, conflicts) in repeats.into_iter().zip([false, true]) {
        let outcomes = store.append(vec![repeat]).await.unwrap().outcomes;
        assert!(matches!(outcomes[..], [AppendOutcome::Conflict]) == conflicts, "{outcomes:?}");
        assert!(matches!(outcomes[..], [AppendOutcome::Duplicate]) != conflicts, "{outcomes:?}");
    }
    watched.ways().await;
    // One that was silent comes back, with its event.
    let window = std::time::Duration::from_secs(90);
    sample::watch(&store).await;
    assert_eq!(store.sweep(sample::sweep(at(200_000), window)).await.unwrap().events.len(), 1);
    let appended = store.append(vec![agent.append(full_report(86_402))]).await.unwrap();
    assert_eq!(appended.events.len(), 1);
    assert_eq!(watched.ways().await, ["86402 transaction"]);
}

/// The statement began before, and had to wait for the row.
#[tokio::test]
async fn an_archive_that_comes_in_between_comes_first() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(3).await;
    let archive = format!("UPDATE hosts SET archived_at = now() WHERE id = '{}'", agents[1].host.id);
    let alone = watched.while_it_waits(vec![agents[1].append(full_report(2))], &archive).await.unwrap();
    assert!(matches!(alone.outcomes[..], [AppendOutcome::HostArchived]), "{alone:?}");
    watched.hand.run("UPDATE hosts SET archived_at = NULL").await;
    let group = agents.iter().map(|agent| agent.append(full_report(2))).collect();
    let group = watched.while_it_waits(group, &archive).await.unwrap();
    let [AppendOutcome::Accepted, AppendOutcome::HostArchived, AppendOutcome::Accepted] = group.outcomes[..] else {
        panic!("{group:?}")
    };
    assert_eq!(watched.ways().await, ["2 statement", "2 statement"]);
    assert_eq!(agents[1].record(&watched.store).await.presence.presence, Presence::Online { last_seen_at: at(1) });
    // Back in service, it goes on.
    watched.hand.run("UPDATE hosts SET archived_at = NULL").await;
    accepted(&watched.store, [agents[1].append(full_report(3))]).await;
    assert_eq!(watched.ways().await, ["3 statement"]);
}

#[tokio::test]
async fn a_host_that_is_archived_by_a_commit_is_passed_over_by_the_statement() {
    let mut watched = Watched::new().await;
    let agent = watched.steady_hosts(1).await.remove(0);
    let archived = Host { lifecycle: Lifecycle::Archived { at: at(2) }, ..agent.host.clone() };
    sample::commit(&watched.store, sample::write(Revision::FIRST, &archived)).await;
    let outcomes = watched.store.append(vec![agent.append(full_report(3))]).await.unwrap().outcomes;
    assert!(matches!(outcomes[..], [AppendOutcome::HostArchived]), "{outcomes:?}");
    assert_eq!(watched.ways().await, Vec::<String>::new());
    // Made so, and another change of one that stays so.
    let born = Host { name: HostName::new("born archived").unwrap(), ..sample::host("other") };
    let born = Host { lifecycle: Lifecycle::Archived { at: at(2) }, ..born };
    sample::create(&watched.store, &born).await;
    let of_archived = "SELECT count(*) FROM host_presence JOIN hosts ON id = host_id WHERE archived";
    assert_eq!(watched.hand.value(of_archived).await, "2");
    sample::commit(&watched.store, sample::write(Revision::FIRST, &Host { cordoned: true, ..born })).await;
    assert_eq!(watched.hand.value(of_archived).await, "2");
}

#[tokio::test]
async fn a_host_that_is_deleted_in_between_is_absent() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(4).await;
    let delete = format!("DELETE FROM hosts WHERE id = '{}'", agents[1].host.id);
    let group = agents.iter().map(|agent| agent.append(full_report(2))).collect();
    let group = watched.while_it_waits(group, &delete).await.unwrap();
    let absent: Vec<_> = group.outcomes.iter().map(|of| matches!(of, AppendOutcome::HostAbsent)).collect();
    assert_eq!(absent, [false, true, false, false], "{group:?}");
    assert_eq!(watched.ways().await, ["2 statement"; 3]);
}

/// What this store remembers of the containers is of a version that has passed.
#[tokio::test]
async fn what_another_replica_has_written_is_seen() {
    let mut watched = Watched::new().await;
    let agent = watched.steady_hosts(1).await.remove(0);
    let running = agent.states(&watched.store).await;
    let other = watched.server.open();
    accepted(&other, [agent.append(stopped(2))]).await;
    assert_ne!(agent.states(&watched.store).await, running);
    accepted(&watched.store, [agent.append(full_report(3))]).await;
    assert_eq!(watched.ways().await, ["2 transaction", "3 transaction"]);
    assert_eq!(agent.states(&watched.store).await, running);
    // While the statement waits.
    let stop = "UPDATE containers SET state = 'exited' WHERE container_id = 'b';
                UPDATE host_presence SET containers_version = containers_version + 1";
    watched.while_it_waits(vec![agent.append(full_report(4))], stop).await.unwrap();
    assert_eq!(agent.states(&watched.store).await, running);
    // Facts likewise.
    accepted(&watched.store, [agent.append(with_facts(5, machine()))]).await;
    watched.ways().await;
    let facts = r#"UPDATE host_presence SET facts = '{"cpu_count":4,"os":"Debian GNU/Linux 12"}',
                   facts_version = facts_version + 1"#;
    watched.while_it_waits(vec![agent.append(with_facts(6, machine()))], facts).await.unwrap();
    assert_eq!(agent.record(&watched.store).await.presence.facts, machine());
    // By the other one, and taken back by this one.
    accepted(&other, [agent.append(with_facts(7, HostFacts { cpu_count: Some(4), ..machine() }))]).await;
    assert_eq!(agent.record(&watched.store).await.presence.facts.cpu_count, Some(4));
    accepted(&watched.store, [agent.append(with_facts(8, machine()))]).await;
    assert_eq!(agent.record(&watched.store).await.presence.facts, machine());
    // A newer report.
    let newer = format!("UPDATE host_presence SET newest_report_at = '{}'", at(60));
    watched.while_it_waits(vec![agent.append(full_report(9))], &newer).await.unwrap();
    assert_eq!(agent.record(&watched.store).await.presence.newest_report_at, Some(at(60)));
    assert_eq!(watched.ways().await, ["6", "7", "8", "9"].map(|at| format!("{at} transaction")));
}

#[tokio::test]
async fn a_host_that_comes_twice_in_a_call_comes_in_its_order() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(8).await;
    let others = |seconds| agents[2..].iter().map(move |agent| agent.append(full_report(seconds)));
    // The second one changes something.
    let (first, second) = (agents[0].append(full_report(2)), agents[0].append(stopped(3)));
    accepted(&watched.store, [first].into_iter().chain(others(2)).chain([second])).await;
    assert_eq!(watched.ways().await, [vec!["2 statement"; 7], vec!["3 transaction"]].concat());
    assert_eq!(agents[0].states(&watched.store).await[1].1, "exited");
    // The first one does; the second would be taken, were it alone.
    let call = [agents[1].append(stopped(4)), agents[1].append(full_report(5))];
    accepted(&watched.store, call.into_iter().chain(others(4))).await;
    assert_eq!(watched.ways().await, [vec!["4 statement"; 6], vec!["4 transaction", "5 transaction"]].concat());
    assert_eq!(agents[1].states(&watched.store).await[1].1, "running");
    // A repeat within the call: it is found before anything is stored.
    let call = [agents[1].append(full_report(6)), agents[1].append(full_report(6))];
    let outcomes = watched.store.append(call.into_iter().chain(others(6)).collect()).await.unwrap().outcomes;
    assert!(matches!(outcomes[..3], [AppendOutcome::Accepted, AppendOutcome::Duplicate, AppendOutcome::Accepted]));
    assert_eq!(watched.ways().await, ["6 statement"; 7]);
    // Where many have to be looked at, all are: one flush.
    let twice = |seconds| agents[..3].iter().map(move |agent| agent.append(full_report(seconds)));
    accepted(&watched.store, twice(7).chain(twice(8))).await;
    assert_eq!(watched.ways().await, [vec!["7 transaction"; 3], vec!["8 transaction"; 3]].concat());
}

/// Alone and in groups: a minute long nobody looks for the token's row again.
#[tokio::test]
async fn a_use_that_the_statement_has_written_is_remembered() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(3).await;
    let setup = "CREATE SEQUENCE looks MINVALUE 0 START 0;
         SELECT nextval('looks');
         CREATE FUNCTION note_look() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM nextval('enlist.looks'); RETURN NULL; END $$;
         CREATE TRIGGER note_look AFTER UPDATE ON agent_tokens FOR EACH STATEMENT EXECUTE FUNCTION note_look()";
    watched.hand.run(setup).await;
    let mut looks = Vec::new();
    for (seconds, number) in [(100, 3), (101, 3), (102, 1), (200, 1), (201, 1), (202, 1), (203, 3), (204, 3)] {
        accepted(&watched.store, agents[..number].iter().map(|agent| agent.append(full_report(seconds)))).await;
        looks.push(watched.hand.value("SELECT last_value::text FROM looks").await);
    }
    // The first was noted with the group; then one alone; then the other two of a group.
    assert_eq!(looks, ["1", "1", "1", "2", "2", "2", "3", "3"]);
    assert!(watched.ways().await.iter().all(|way| way.ends_with("statement")));
}

/// Whoever waits for the first row holds none behind it.
#[tokio::test]
async fn stores_that_get_their_hosts_in_opposite_orders_take_their_locks_in_one() {
    let mut watched = Watched::new().await;
    let agents = watched.steady_hosts(2).await;
    let other = watched.server.open();
    accepted(&other, agents.iter().map(|agent| agent.append(full_report(2)))).await;
    let [first, second] = [0, 1].map(|place| format!("host_presence WHERE host_id = '{}'", agents[place].host.id));
    watched.hand.run(&format!("BEGIN; SELECT FROM {first} FOR UPDATE")).await;
    let one = spawn(&watched.store, agents.iter().map(|agent| agent.append(full_report(3))).collect());
    let two = spawn(&other, agents.iter().rev().map(|agent| agent.append(full_report(4))).collect());
    let mut watcher = watched.server.by_hand().await;
    watcher.until(&SOMEBODY_WAITS.replace("EXISTS (SELECT FROM", "(SELECT count(*) = 2 FROM")).await;
    watcher.run(&format!("SELECT FROM {second} FOR UPDATE NOWAIT")).await;
    watched.hand.run("COMMIT").await;
    for append in [one, two] {
        let outcomes = append.await.unwrap().unwrap().outcomes;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Accepted)), "{outcomes:?}");
    }
}
