//! Names, external ids and hashes: who has them, and for how long.

use std::sync::Mutex;

use async_trait::async_trait;
use enlist_core::event::Event;
use enlist_core::host::Host;
use enlist_core::store::{Commit, HostRecord, Known, Prune, StoreError, StoreErrorKind, Write};
use enlist_core::{MemoryStore, Store, Timestamp, TokenHash};

use crate::twin::{Fault, accept, agent_tokens, all_hosts, faults, guards_hold, prune_nothing, twins};

/// Refuses with `kind` a commit that writes a host which `clashes` with a stored one.
async fn refuse(
    store: &MemoryStore,
    commit: Commit,
    kind: StoreErrorKind,
    clashes: impl Fn(&Host, &Host) -> bool + Send,
) -> Result<Vec<Event>, StoreError> {
    let known = all_hosts(store).await;
    let clash = commit.writes.iter().any(|write| match write {
        Write::Host(write) => {
            known.iter().any(|HostRecord { host, .. }| host.id != write.host.id && clashes(host, &write.host))
        }
        _ => false,
    });
    if clash && guards_hold(store, &commit).await { Err(kind.into()) } else { store.commit(commit).await }
}

fn is_host_write(write: &Write, matches: impl Fn(&Host) -> bool) -> bool {
    matches!(write, Write::Host(write) if matches(&write.host))
}

/// The hashes of install tokens that a commit writes.
fn install_hashes(commit: &Commit) -> Vec<TokenHash> {
    let of = |write: &Write| match write {
        Write::Host(write) => write.install_tokens.iter().map(|token| token.hash).collect(),
        Write::TenantInstallToken { token, .. } => vec![token.hash],
        Write::HostDeletion { .. } => Vec::new(),
    };
    commit.writes.iter().flat_map(of).collect()
}

faults! {
    /// A plain unique index over tenant and name.
    ArchivedHostsKeepTheirNames {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let clashes = |other: &Host, new: &Host| {
                other.tenant_id == new.tenant_id && other.name == new.name && other.is_archived()
            };
            refuse(store, commit, StoreErrorKind::NameTaken, clashes).await
        }
    }

    /// A unique index over the name alone.
    TenantsShareTheirNames {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let clashes = |other: &Host, new: &Host| {
                other.tenant_id != new.tenant_id && other.name == new.name && !other.is_archived()
            };
            refuse(store, commit, StoreErrorKind::NameTaken, clashes).await
        }
    }

    /// A collation that does not tell case apart.
    NamesClashWhateverTheirCase {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let clashes = |other: &Host, new: &Host| {
                let (a, b) = (other.name.as_str(), new.name.as_str());
                other.tenant_id == new.tenant_id && !other.is_archived() && a != b && a.eq_ignore_ascii_case(b)
            };
            refuse(store, commit, StoreErrorKind::NameTaken, clashes).await
        }
    }

    /// Only creating a host looks whether its name is free.
    RenamingTakesATakenName {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let known = all_hosts(store).await;
            let renames = |write: &Write| {
                is_host_write(write, |host| known.iter().any(|other| other.host.id == host.id))
            };
            if commit.writes.iter().any(renames) {
                return accept(store, commit, StoreErrorKind::NameTaken).await;
            }
            store.commit(commit).await
        }
    }

    /// The index leaves out archived hosts, as that of the names does.
    ArchivedHostsGiveUpTheirExternalIds {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let known = all_hosts(store).await;
            let is_archiveds = |write: &Write| {
                is_host_write(write, |host| {
                    known.iter().map(|record| &record.host).any(|other| {
                        other.is_archived() && other.id != host.id && other.external_id == host.external_id
                    })
                })
            };
            if commit.writes.iter().any(is_archiveds) {
                return accept(store, commit, StoreErrorKind::ExternalIdTaken).await;
            }
            store.commit(commit).await
        }
    }

    /// A unique index over the external id alone.
    TenantsShareTheirExternalIds {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let clashes = |other: &Host, new: &Host| {
                other.tenant_id != new.tenant_id && new.external_id.is_some() && other.external_id == new.external_id
            };
            refuse(store, commit, StoreErrorKind::ExternalIdTaken, clashes).await
        }
    }

    /// The index that speaks first is the one that was made first.
    ExternalIdsClashBeforeNames {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let clashes = |other: &Host, new: &Host| {
                other.tenant_id == new.tenant_id && new.external_id.is_some() && other.external_id == new.external_id
            };
            let answer = store.commit(commit.clone()).await;
            if answer.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::NameTaken) {
                return refuse(store, commit, StoreErrorKind::ExternalIdTaken, clashes).await;
            }
            answer
        }
    }

    /// The index on hashes holds live tokens only.
    HashesOfFinalTokensAreForgotten {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            let mut is_forgotten = false;
            for token in agent_tokens(&commit) {
                if let Some(Known::Credential(known)) = store.authenticate(&token.hash).await? {
                    is_forgotten |= !known.token.is_live() && known.token.id != token.id;
                }
            }
            if is_forgotten {
                return accept(store, commit, StoreErrorKind::HashSeen).await;
            }
            store.commit(commit).await
        }
    }

    /// Tombstones are kept, and nobody looks at them when a token is made.
    HashesOfDeletedHostsAreForgotten {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            for token in agent_tokens(&commit) {
                if let Some(Known::Tombstone(_)) = store.authenticate(&token.hash).await? {
                    let all = Prune { tombstones_before: Timestamp::MAX, ..prune_nothing(Timestamp::MIN) };
                    store.prune(&all).await?;
                }
            }
            store.commit(commit).await
        }
    }

    /// There is no index on the hashes of install tokens.
    InstallTokensShareAHash {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            for hash in install_hashes(&commit) {
                if store.load(&enlist_core::store::Key::InstallToken(hash)).await?.is_some() {
                    return accept(store, commit, StoreErrorKind::HashSeen).await;
                }
            }
            store.commit(commit).await
        }
    }

    /// The index on the hashes of install tokens is one of hosts' tokens.
    TenantInstallTokensShareAHash {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            if commit.writes.iter().any(|write| matches!(write, Write::TenantInstallToken { .. })) {
                return accept(store, commit, StoreErrorKind::HashSeen).await;
            }
            store.commit(commit).await
        }
    }

    /// The hashes of install tokens go with the host's rows.
    InstallHashesOfDeletedHostsAreForgotten {
        async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
            for hash in install_hashes(&commit) {
                if store.load(&enlist_core::store::Key::InstallToken(hash)).await?.is_none() {
                    return accept(store, commit, StoreErrorKind::HashSeen).await;
                }
            }
            store.commit(commit).await
        }
    }
}

/// What a host had before it was changed stays its own: the register of it only grows.
struct OldOnesStayTaken(fn(&Host) -> Option<String>, StoreErrorKind, Mutex<Vec<Host>>);

impl OldOnesStayTaken {
    fn of(part: fn(&Host) -> Option<String>, kind: StoreErrorKind) -> Self {
        Self(part, kind, Mutex::default())
    }
}

#[async_trait]
impl Fault for OldOnesStayTaken {
    async fn commit(&self, store: &MemoryStore, commit: Commit) -> Result<Vec<Event>, StoreError> {
        let written = |host: &Host| commit.writes.iter().any(|write| is_host_write(write, |new| new.id == host.id));
        let before: Vec<_> = all_hosts(store).await.into_iter().map(|record| record.host).filter(written).collect();
        let had = |other: &Host, new: &Host| {
            let (had, has) = ((self.0)(other), (self.0)(new));
            other.id != new.id && other.tenant_id == new.tenant_id && has.is_some() && had == has
        };
        let known = self.2.lock().unwrap().clone();
        let is_taken = |write: &Write| is_host_write(write, |new| known.iter().any(|other| had(other, new)));
        if commit.writes.iter().any(is_taken) {
            return Err(self.1.into());
        }
        let changes = |before: &Host| {
            commit.writes.iter().any(|write| {
                is_host_write(write, |new| {
                    new.id == before.id && !new.is_archived() && (self.0)(new) != (self.0)(before)
                })
            })
        };
        let changed: Vec<_> = before.into_iter().filter(changes).collect();
        let written = store.commit(commit).await?;
        self.2.lock().unwrap().extend(changed);
        Ok(written)
    }
}

twins! {
    old_names_stay_taken:
        OldOnesStayTaken::of(|host| Some(host.name.as_str().to_owned()), StoreErrorKind::NameTaken) => [
        "commit::a_change_frees_the_old_name_and_the_old_external_id",
    ],
    old_external_ids_stay_taken: OldOnesStayTaken::of(
        |host| host.external_id.as_ref().map(|id| id.as_str().to_owned()),
        StoreErrorKind::ExternalIdTaken,
    ) => [
        "commit::a_change_frees_the_old_name_and_the_old_external_id",
    ],
    tenant_install_tokens_share_a_hash: TenantInstallTokensShareAHash => [
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
        "token::an_install_tokens_hash_is_accepted_once",
    ],
    archived_hosts_keep_their_names: ArchivedHostsKeepTheirNames => [
        "commit::archiving_a_host_frees_its_name",
    ],
    tenants_share_their_names: TenantsShareTheirNames => [
        "commit::a_name_is_unique_among_the_unarchived_hosts_of_a_tenant",
    ],
    names_clash_whatever_their_case: NamesClashWhateverTheirCase => [
        "commit::a_name_is_unique_among_the_unarchived_hosts_of_a_tenant",
    ],
    renaming_takes_a_taken_name: RenamingTakesATakenName => [
        "commit::a_name_is_unique_among_the_unarchived_hosts_of_a_tenant",
        "commit::writes_of_one_commit_are_made_in_their_order",
    ],
    archived_hosts_give_up_their_external_ids: ArchivedHostsGiveUpTheirExternalIds => [
        "commit::an_external_id_is_unique_in_its_tenant_archived_or_not",
    ],
    tenants_share_their_external_ids: TenantsShareTheirExternalIds => [
        "commit::an_external_id_is_unique_in_its_tenant_archived_or_not",
    ],
    external_ids_clash_before_names: ExternalIdsClashBeforeNames => [
        "commit::of_several_clashes_the_first_is_reported",
    ],
    hashes_of_final_tokens_are_forgotten: HashesOfFinalTokensAreForgotten => [
        "token::a_hash_is_accepted_once_over_all_hosts_and_for_ever",
    ],
    hashes_of_deleted_hosts_are_forgotten: HashesOfDeletedHostsAreForgotten => [
        "deletion::the_hash_of_a_deleted_hosts_token_stays_seen",
    ],
    install_tokens_share_a_hash: InstallTokensShareAHash => [
        "token::an_install_tokens_hash_is_accepted_once",
    ],
    install_hashes_of_deleted_hosts_are_forgotten: InstallHashesOfDeletedHostsAreForgotten => [
        "deletion::the_hash_of_a_deleted_hosts_install_token_stays_seen",
        "prune::the_hash_of_a_pruned_install_token_stays_seen",
    ],
}
