//! What this machine calls itself, for install tokens that make their host.

use std::path::Path;

use enlist_core::host::{ExternalId, HostName};
use enlist_core::wire::ProposedHost;
use sha2::{Digest, Sha256};
use sysinfo::System;

/// Where machine-id(5) is kept.
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// What this machine would be in a fleet: named by its host name, and found again by its machine id, each where the system
/// has one. For [`Enrolment::host`](crate::Enrolment::host) and [`AgentBuilder::host`](crate::AgentBuilder::host); only the
/// install token of a tenant makes use of it.
///
/// The external id is a hash, since machine-id(5) asks to keep the id itself to the machine. Machines that were cloned
/// together with theirs propose the same, and all but the first are refused (`external_id_taken`) as long as that holds a
/// credential, so that none takes over another: give each an id of its own, or have the image made without one.
pub fn this_machine() -> ProposedHost {
    let machine_id = MACHINE_ID.iter().find_map(|path| external_id(&std::fs::read_to_string(Path::new(path)).ok()?));
    ProposedHost { name: System::host_name().ok().as_deref().and_then(host_name), external_id: machine_id }
}

/// `localhost` names every machine, and so none.
fn host_name(name: &str) -> Option<HostName> {
    let name = name.trim();
    if name == "localhost" || name.starts_with("localhost.") { None } else { HostName::new(name).ok() }
}

/// Of an image that gets its machine id at the first boot, the file is empty or says `uninitialized`.
fn external_id(machine_id: &str) -> Option<ExternalId> {
    let id = machine_id.trim_ascii();
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) || id.bytes().all(|byte| byte == b'0') {
        return None;
    }
    let hash: [u8; 32] = Sha256::new().chain_update("enlist external id\n").chain_update(id).finalize().into();
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    ExternalId::new(format!("machine-{hex}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_hashed_and_always_to_the_same() {
        let machine_id = "dd2c9b1f2a6c4f0d9f3b1a2c3d4e5f60";
        let id = external_id(&format!("{machine_id}\n")).expect("it is one");
        assert_eq!(id.as_str(), "machine-1cdfaa96210adddd50063a1745a3cccc");
        assert!(!id.as_str().contains(machine_id));
    }

    #[test]
    fn what_is_no_machine_id_finds_no_machine() {
        for text in [
            "",
            "\n",
            "uninitialized\n",
            "00000000000000000000000000000000",
            "dd2c9b1f",
            "not hexadecimal, but 32 bytes ok.",
        ] {
            assert_eq!(external_id(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_name_that_every_machine_has_is_none() {
        for name in ["localhost", "localhost.localdomain", "", " ", "a\nb"] {
            assert_eq!(host_name(name), None, "{name:?}");
        }
        assert_eq!(host_name("web-1\n").expect("a name").as_str(), "web-1");
    }
}
