//! Reports: appended with the contact that they prove; read back in the order in which they were measured.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use enlist_core::store::{Append, AppendOutcome, Appended, Contact, Fingerprint, Page, TelemetryQuery};
use enlist_core::telemetry::{HostSnapshot, Report};

use crate::column::{At, Id};
use crate::contact::Visits;
use crate::container::{ContainerName, Containers};
use crate::error::Failure;
use crate::partition::Day;
use crate::snapshot::{self, SnapshotRow};
use crate::store::{Learnt, Shared};
use crate::transaction::Db;
use crate::{contact, container, steady};

/// What tells a report from all others.
pub(crate) type ReportKey = (Id, At);

/// `append`: what one statement does not take, a transaction does.
pub(crate) async fn append(shared: Arc<Shared>, reports: Vec<Append>) -> Result<Appended, Failure> {
    if reports.is_empty() {
        // Unmigrated is unmigrated, whatever there is to store.
        shared.attempt(&[], |_| Box::pin(async { Ok(()) })).await?;
        return Ok(Appended { outcomes: Vec::new(), events: Vec::new() });
    }
    let stored = steady::append(&shared, &reports).await?;
    let left: Vec<_> = reports.iter().zip(&stored).filter(|(_, stored)| !**stored).map(|(append, _)| append).collect();
    if left.len() == reports.len() {
        return append_as_they_come(&shared, &reports).await;
    }
    let mut rest = Appended { outcomes: Vec::new(), events: Vec::new() };
    if !left.is_empty() {
        let left: Vec<_> = left.into_iter().cloned().collect();
        // The others are stored, whatever becomes of these.
        let answer = append_as_they_come(&shared, &left).await;
        rest =
            answer.unwrap_or_else(|failure| Appended { outcomes: all_failed(failure, left.len()), events: Vec::new() });
    }
    let mut outcomes = rest.outcomes.into_iter();
    let outcomes = stored.into_iter().map(|stored| {
        if stored {
            AppendOutcome::Accepted
        } else {
            outcomes.next().expect("each report that is left has its outcome")
        }
    });
    Ok(Appended { outcomes: outcomes.collect(), events: rest.events })
}

/// All of them fail for one reason.
fn all_failed(failure: Failure, number: usize) -> Vec<AppendOutcome> {
    let kind = failure.kind();
    let first = std::iter::once(AppendOutcome::Failed(failure.into()));
    first.chain(std::iter::repeat_with(|| AppendOutcome::Failed(kind.into()))).take(number).collect()
}

/// All reports in one transaction. If that fails for a reason that one of them may be, each gets one of its own, so that
/// the bad one fails alone.
async fn append_as_they_come(shared: &Arc<Shared>, reports: &[Append]) -> Result<Appended, Failure> {
    let mut appended = Appended { outcomes: Vec::with_capacity(reports.len()), events: Vec::new() };
    match append_together(shared, reports, false).await {
        Err(failure) if failure.may_be_of_one_piece() => {}
        answer => return answer,
    }
    for (place, append) in reports.iter().enumerate() {
        match append_together(shared, std::slice::from_ref(append), true).await {
            Ok(one) => {
                appended.outcomes.extend(one.outcomes);
                appended.events.extend(one.events);
            }
            Err(failure) if !failure.may_be_of_one_piece() => {
                // The others would fail alike, each after its own wait.
                appended.outcomes.extend(all_failed(failure, reports.len() - place));
                break;
            }
            Err(failure) => {
                // What a report says never changes presence: the host has proved its credential all the same. If even
                // that cannot be noted, its next contact will be.
                let contacts = [append.contact.clone()];
                let noted = shared.attempt(&[], |db| {
                    let contacts = contacts.clone();
                    Box::pin(async move { contact::touch(db, &contacts).await })
                });
                if let Ok((events, used)) = noted.await {
                    appended.events.extend(events);
                    shared.remembered.learn(Learnt { used, ..Learnt::default() });
                }
                appended.outcomes.push(AppendOutcome::Failed(failure.into()));
            }
        }
    }
    Ok(appended)
}

/// `doubtful` if nothing is taken for new that was not looked for: what a hand at the prompt has put there fails a group,
/// and then not its report.
async fn append_together(shared: &Arc<Shared>, reports: &[Append], doubtful: bool) -> Result<Appended, Failure> {
    let mut days: Vec<_> = reports.iter().map(|append| Day::of(append.report.recorded_at)).collect();
    days.sort_unstable();
    days.dedup();
    // What the transaction takes along has to be its own; it is the one copy that is made of a batch.
    let reports: Arc<[Append]> = reports.into();
    let stored = shared.attempt(&days, move |db| {
        let reports = Arc::clone(&reports);
        Box::pin(async move { store(db, &reports, doubtful).await })
    });
    let (appended, learnt) = stored.await?;
    shared.remembered.learn(learnt);
    shared.steadiness.regain();
    Ok(appended)
}

/// The transaction. Its round trips are bounded, however many reports and hosts there are.
async fn store(db: &mut Db, reports: &[Append], doubtful: bool) -> Result<(Appended, Learnt), Failure> {
    let hosts = reports.iter().map(|append| append.contact.host_id.into()).collect();
    let mut visits = Visits::begin(db, hosts).await?;
    let mut batch = Batch::default();
    let mut outcomes = Vec::with_capacity(reports.len());
    for (place, Append { contact, report }) in reports.iter().enumerate() {
        outcomes.push(match visits.get_mut(contact.host_id.into()) {
            None => AppendOutcome::HostAbsent,
            Some(visit) if visit.is_archived() => AppendOutcome::HostArchived,
            Some(visit) => {
                // Who is newer than the newest was not stored before.
                let newest = visit.presence.newest_report_at;
                let is_new = !doubtful && newest.is_none_or(|newest| At(report.recorded_at) > newest);
                visits.contact(contact);
                match row_of(db, contact, report) {
                    Err(failure) => AppendOutcome::Failed(failure.into()),
                    Ok(row) => {
                        batch.take(place, row, is_new);
                        // Until it is known better.
                        AppendOutcome::Accepted
                    }
                }
            }
        });
    }
    for (place, outcome) in batch.judge(db, reports).await? {
        outcomes[place] = outcome;
    }
    let accepted = |first: &&First<'_>| matches!(outcomes[first.place], AppendOutcome::Accepted);
    let rows: Vec<_> = batch.firsts.iter().filter(accepted).map(|first| &first.row).collect();
    let accepted: Vec<_> = batch.firsts.iter().filter(accepted).map(|first| &reports[first.place]).collect();
    // Containers before the reports that name them, by keys that are theirs then.
    let (keys, learnt) = describe(db, &mut visits, &accepted).await?;
    snapshot::insert(db, &rows.into_iter().zip(keys.iter().map(Vec::as_slice)).collect::<Vec<_>>()).await?;
    let (events, used) = visits.finish(db).await?;
    Ok((Appended { outcomes, events }, Learnt { used, ..learnt }))
}

fn row_of<'a>(db: &Db, contact: &Contact, report: &'a Report) -> Result<SnapshotRow<'a>, Failure> {
    let row = SnapshotRow::of(contact.host_id.into(), report, contact.at)?;
    if db.lacks(Day::of(report.recorded_at)) {
        return Err(Failure::Unavailable("the report's day cannot be made or is not attached"));
    }
    Ok(row)
}

/// The reports of a call that may be stored, each with its place in the call.
#[derive(Debug, Default)]
struct Batch<'a> {
    /// The first one of each identity.
    firsts: Vec<First<'a>>,
    /// Where in `firsts` an identity is.
    found: HashMap<ReportKey, usize>,
    /// The others, with where in `firsts` theirs is: two rows of one statement cannot clash with each other.
    repeats: Vec<(usize, usize)>,
}

#[derive(Debug)]
struct First<'a> {
    place: usize,
    row: SnapshotRow<'a>,
    /// Whether it cannot have been stored before.
    is_new: bool,
}

impl<'a> Batch<'a> {
    fn take(&mut self, place: usize, row: SnapshotRow<'a>, is_new: bool) {
        let next = self.firsts.len();
        let first = *self.found.entry(row.key()).or_insert(next);
        if first == next {
            self.firsts.push(First { place, row, is_new });
        } else {
            self.repeats.push((place, first));
        }
    }

    /// What becomes of each: only those that may be there already are looked for.
    async fn judge(&self, db: &mut Db, reports: &[Append]) -> Result<Vec<(usize, AppendOutcome)>, Failure> {
        let doubtful = self.firsts.iter().filter(|first| !first.is_new);
        let there = snapshot::by_keys(db, &doubtful.map(|first| first.row.key()).collect::<Vec<_>>()).await?;
        let judge = |known: &HostSnapshot, place: usize| {
            if known.repeats(&reports[place].report) { AppendOutcome::Duplicate } else { AppendOutcome::Conflict }
        };
        let firsts = self.firsts.iter().map(|First { place, row, .. }| {
            let known = there.get(&row.key());
            (*place, known.map_or(AppendOutcome::Accepted, |known| judge(known, *place)))
        });
        let repeats = self.repeats.iter().map(|(place, first)| {
            let row = &self.firsts[*first].row;
            let outcome =
                there.get(&row.key()).map_or_else(|| judge(&row.snapshot(), *place), |known| judge(known, *place));
            (*place, outcome)
        });
        Ok(firsts.chain(repeats).collect())
    }
}

/// The keys of each report's measured containers.
type Keys = Vec<Vec<i64>>;

/// Takes over the facts and the containers of those reports that are newer than all before them, in their order. Gives
/// the keys by which all of them name their containers, and what is known of the hosts then.
async fn describe(db: &mut Db, visits: &mut Visits, accepted: &[&Append]) -> Result<(Keys, Learnt), Failure> {
    let shared = db.shared();
    let known = &shared.remembered.described;
    let fingerprints: Vec<_> = accepted.iter().map(|append| known.fingerprints(&append.report.containers)).collect();
    let mut newest = Vec::new();
    let (mut changed, mut told) = (HashSet::new(), HashMap::new());
    for (append, fingerprints) in accepted.iter().zip(&fingerprints) {
        let (host_id, report) = (append.contact.host_id, &append.report);
        let Some(visit) = visits.get_mut(host_id.into()) else { continue };
        let at = At(report.recorded_at);
        if visit.presence.newest_report_at.is_some_and(|newest| at <= newest) {
            continue;
        }
        visit.presence.newest_report_at = Some(at);
        visit.presence.touch();
        newest.push(*append);
        // Nothing was written of the host's containers yet: what is known at this version holds.
        let unchanged = !tells(report)
            || known
                .find(host_id, visit.presence.containers_version.0)
                .is_some_and(|described| described.is_unchanged_by(fingerprints, report.containers_complete));
        if !unchanged {
            changed.insert(host_id);
        }
    }
    // Only of hosts with a report that may change any.
    let mut of_host = container::load(db, changed.iter().copied().map(Id::from).collect()).await?;
    for Append { contact, report } in newest {
        let host_id = Id::from(contact.host_id);
        let Some(visit) = visits.get_mut(host_id) else { continue };
        if let Some(facts) = &report.host.facts {
            visit.presence.merge_facts(facts);
            // The last one is all that needs to be known: the host has agreed to it since.
            told.insert(contact.host_id, shared.remembered.facts.fingerprint(facts));
        }
        if !tells(report) {
            continue;
        }
        if let Some(containers) = of_host.get_mut(&host_id) {
            let mut changed = containers.describe(&report.containers, contact.at);
            if report.containers_complete {
                changed |= containers.remove_missing(&report.containers, contact.at, visit.presence.last_complete_at);
            }
            visit.presence.containers_version.0 += u64::from(changed);
        }
        if report.containers_complete {
            visit.presence.last_complete_at = Some(At(contact.at));
        }
    }
    container::put(db, &mut of_host).await?;
    let keys = name(db, visits, &of_host, accepted, &fingerprints).await?;
    let described = changed.into_iter().filter_map(|host_id| {
        let (containers, visit) = (of_host.get(&host_id.into())?, visits.get_mut(host_id.into())?);
        Some((host_id, visit.presence.containers_version.0, containers.described(known)))
    });
    let described = described.collect();
    let told = told.into_iter().filter_map(|(host_id, fingerprint)| {
        Some((host_id, visits.get_mut(host_id.into())?.presence.facts_version.0, fingerprint))
    });
    Ok((keys, Learnt { described, told: told.collect(), ..Learnt::default() }))
}

/// The keys by which reports name the containers that they measured. Of a host whose rows were not read, those that are
/// there are known as long as its version is; only for others the table is asked, once for all reports.
async fn name(
    db: &mut Db,
    visits: &mut Visits,
    of_host: &HashMap<Id, Containers>,
    accepted: &[&Append],
    fingerprints: &[Vec<Fingerprint>],
) -> Result<Keys, Failure> {
    let shared = db.shared();
    let mut keys: Vec<Vec<Result<i64, ContainerName>>> = Vec::with_capacity(accepted.len());
    let mut unknown = BTreeMap::new();
    for (Append { contact, report }, fingerprints) in accepted.iter().zip(fingerprints) {
        let host_id = Id::from(contact.host_id);
        let version = visits.get_mut(host_id).map(|visit| visit.presence.containers_version.0);
        let read = of_host.get(&host_id);
        let remembered = match (read, version) {
            (None, Some(version)) => shared.remembered.described.find(contact.host_id, version),
            _ => None,
        };
        let measured = report.containers.iter().zip(fingerprints).filter(|(container, _)| container.metrics.is_some());
        let of_report = measured.map(|(container, fingerprint)| {
            let id = &container.container_id;
            let read = read.and_then(|containers| containers.key(id));
            read.or_else(|| remembered.as_ref()?.key(*fingerprint)).ok_or_else(|| {
                let until = unknown.entry((host_id, id.clone())).or_insert(At(report.recorded_at));
                *until = At(report.recorded_at).max(*until);
                (host_id, id.clone())
            })
        });
        keys.push(of_report.collect());
    }
    let named = container::name(db, &unknown).await?;
    let key = |key: Result<i64, ContainerName>| {
        key.or_else(|name| named.get(&name).copied().ok_or(Failure::Corrupt("a container was given no key")))
    };
    keys.into_iter().map(|of_report| of_report.into_iter().map(key).collect()).collect()
}

/// Whether a report can change anything about containers.
pub(crate) fn tells(report: &Report) -> bool {
    !report.containers.is_empty() || report.containers_complete
}

/// `list_telemetry`.
pub(crate) async fn list(db: &mut Db, query: &TelemetryQuery) -> Result<Page<HostSnapshot>, Failure> {
    let snapshots = snapshot::range(db, query).await?;
    Ok(Page::of_overread(snapshots, query.limit))
}
