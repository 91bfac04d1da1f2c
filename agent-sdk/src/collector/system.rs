//! The machine itself.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use enlist_core::telemetry::{HostFacts, HostMetrics, MAX_COUNTER};
use enlist_core::{Clock, SystemClock};
use sysinfo::{DiskRefreshKind, Disks, MemoryRefreshKind, Networks, System};
use tokio::sync::Mutex;

use super::{Collected, Collector};
use crate::error::OpenError;

/// The longest text of a fact, in bytes.
const MAX_FACT: usize = 255;

/// Facts and numbers of this machine.
///
/// - `cpu_percent`: of the whole machine since the collection before, the first since construction. Two samples closer
///   together than the system can tell apart are kept apart by waiting, 200 ms at most.
/// - Memory in use is what is not available: caches do not count.
/// - Disks: local file systems, each device once wherever and however often it is mounted, ZFS by pool; no memory, overlay
///   or network file systems. In use is what is not available to ordinary users, reserves included.
/// - Network counters: all interfaces but loopback. They only rise while the collector lives, also when an interface
///   goes; its bytes stay counted.
///
/// What the system does not tell is absent. The work runs on a blocking thread.
#[derive(Debug, Clone)]
pub struct SystemCollector {
    sampler: Arc<Mutex<Sampler>>,
}

impl SystemCollector {
    /// Takes the first sample.
    ///
    /// # Errors
    /// When the system's numbers cannot be read at all.
    pub fn new() -> Result<Self, OpenError> {
        let sampler = Sampler::new().map_err(|error| OpenError::Collector(error.into()))?;
        Ok(Self { sampler: Arc::new(Mutex::new(sampler)) })
    }
}

#[async_trait]
impl Collector for SystemCollector {
    async fn collect(&mut self) -> Collected {
        // Held by the blocking thread until it is done, also when nobody waits for it any more.
        let mut sampler = Arc::clone(&self.sampler).lock_owned().await;
        match tokio::task::spawn_blocking(move || sampler.sample()).await {
            Ok(collected) => collected,
            Err(error) => {
                tracing::warn!(%error, "the machine's metrics could not be read");
                Collected::default()
            }
        }
    }
}

#[derive(Debug)]
struct Sampler {
    system: System,
    disks: Disks,
    networks: Networks,
    traffic: Traffic,
    clock: SystemClock,
    sampled_at: Duration,
    facts: HostFacts,
}

impl Sampler {
    fn new() -> Result<Self, sysinfo::Error> {
        let mut system = System::new()?;
        system.refresh_cpu_usage();
        let clock = SystemClock::default();
        Ok(Self {
            sampled_at: clock.monotonic(),
            facts: lasting_facts(),
            disks: Disks::new()?,
            networks: Networks::new()?,
            traffic: Traffic::default(),
            system,
            clock,
        })
    }

    fn sample(&mut self) -> Collected {
        let since = self.clock.monotonic().saturating_sub(self.sampled_at);
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL.saturating_sub(since));
        self.system.refresh_cpu_usage();
        self.sampled_at = self.clock.monotonic();
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram().with_swap());
        self.disks.refresh_specifics(true, DiskRefreshKind::nothing().with_storage());
        self.networks.refresh(true);

        let memory_total_bytes = Some(self.system.total_memory()).filter(|&total| total > 0);
        let space = local_space(self.disks.iter().map(|disk| {
            Mount {
                device: disk.name().to_string_lossy().into_owned(),
                file_system: disk.file_system().to_string_lossy().into_owned(),
                total: disk.total_space(),
                used: used_space(disk.mount_point())
                    .unwrap_or_else(|| disk.total_space().saturating_sub(disk.available_space())),
                available: disk.available_space(),
            }
        }));
        let interfaces = self.networks.iter().filter(|(name, data)| !is_loopback(name, data));
        let counters = interfaces.map(|(name, data)| {
            (name.to_string_lossy().into_owned(), (data.total_received(), data.total_transmitted()))
        });
        let traffic = self.traffic.add(counters);
        let load = System::load_average().ok();
        let cpu_count = u32::try_from(self.system.cpus().len()).ok().filter(|&count| count > 0);
        let cpu_percent = f64::from(self.system.global_cpu_usage());

        let facts = HostFacts {
            cpu_count,
            memory_total_bytes,
            disk_total_bytes: space.map(|space| space.total),
            ..self.facts.clone()
        };
        let metrics = HostMetrics {
            cpu_percent: cpu_count.map(|_| cpu_percent.clamp(0.0, 100.0)),
            load_1m: load.as_ref().map(|load| load.one),
            load_5m: load.as_ref().map(|load| load.five),
            load_15m: load.as_ref().map(|load| load.fifteen),
            memory_used_bytes: memory_total_bytes.map(|_| self.system.used_memory()),
            memory_total_bytes,
            swap_used_bytes: memory_total_bytes.map(|_| self.system.used_swap()),
            swap_total_bytes: memory_total_bytes.map(|_| self.system.total_swap()),
            disk_used_bytes: space.map(|space| space.used),
            disk_total_bytes: space.map(|space| space.total),
            network_rx_bytes: traffic.map(|(received, _)| received),
            network_tx_bytes: traffic.map(|(_, sent)| sent),
            uptime_seconds: System::uptime().ok(),
        };
        Collected { facts, metrics, ..Collected::default() }
    }
}

/// Those that last as long as the process.
fn lasting_facts() -> HostFacts {
    let os = match (System::name(), System::os_version()) {
        (Ok(name), Ok(version)) => Some(format!("{name} {version}")),
        (Ok(name), Err(_)) => Some(name),
        _ => None,
    };
    HostFacts {
        os: os.and_then(fact),
        kernel: System::kernel_version().ok().and_then(fact),
        arch: fact(System::cpu_arch()),
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(fact),
        ..HostFacts::default()
    }
}

/// A text within the bounds of a fact; one that says nothing is unknown.
fn fact(text: String) -> Option<String> {
    let mut text = text.trim().replace('\0', "");
    text.truncate(text.floor_char_boundary(MAX_FACT));
    Some(text).filter(|text| !text.is_empty())
}

/// A mounted file system.
#[derive(Debug, Clone)]
struct Mount {
    device: String,
    file_system: String,
    total: u64,
    used: u64,
    available: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Space {
    used: u64,
    total: u64,
}

/// What is really taken, as `df` says it: what a file system reserves for root is not available, yet not used either.
#[cfg(unix)]
fn used_space(mount_point: &std::path::Path) -> Option<u64> {
    let space = rustix::fs::statvfs(mount_point).ok()?;
    space.f_blocks.checked_sub(space.f_bfree)?.checked_mul(space.f_frsize)
}

/// Nothing is reserved there.
#[cfg(not(unix))]
fn used_space(_mount_point: &std::path::Path) -> Option<u64> {
    None
}

/// The space of all local devices, or `None` when there is none to be seen.
fn local_space(mounts: impl Iterator<Item = Mount>) -> Option<Space> {
    let mut devices = BTreeMap::<String, Space>::new();
    for mount in mounts {
        let used = mount.used.min(mount.total);
        let space = Space { used, total: mount.total };
        if mount.total == 0 {
            continue;
        }
        if mount.file_system.eq_ignore_ascii_case("zfs") {
            // Each dataset shows its own use and the space that is left in the pool.
            let pool = mount.device.split('/').next().unwrap_or_default().to_owned();
            let known = devices.entry(format!("zfs:{pool}")).or_default();
            let left = (known.total - known.used).max(mount.available);
            known.used = known.used.saturating_add(used);
            known.total = known.used.saturating_add(left);
        } else if is_local_device(&mount.device) {
            devices.entry(mount.device).or_insert(space);
        }
    }
    let sum = |part: fn(&Space) -> u64| devices.values().map(part).fold(0, u64::saturating_add).min(MAX_COUNTER);
    (!devices.is_empty()).then(|| Space { used: sum(|space| space.used), total: sum(|space| space.total) })
}

/// Block devices of its own: not what lies in memory, in a file of another disk, or across the network.
#[cfg(target_os = "linux")]
fn is_local_device(device: &str) -> bool {
    device
        .strip_prefix("/dev/")
        .is_some_and(|name| !["loop", "ram", "zram", "fuse"].iter().any(|kind| name.starts_with(kind)))
}

/// Elsewhere the system lists volumes under names of its own.
#[cfg(not(target_os = "linux"))]
fn is_local_device(device: &str) -> bool {
    !device.starts_with("//") && !device.starts_with("\\\\") && !device.contains(':')
}

fn is_loopback(name: &OsStr, data: &sysinfo::NetworkData) -> bool {
    let addresses = data.ip_networks();
    name == "lo"
        || name == "lo0"
        || (!addresses.is_empty() && addresses.iter().all(|network| network.addr.is_loopback()))
}

/// Counters over interfaces that come and go.
#[derive(Debug, Default)]
struct Traffic {
    last: BTreeMap<String, (u64, u64)>,
    total: (u64, u64),
    seen: bool,
}

impl Traffic {
    /// Adds what each interface moved since the last time: all of it for a new one, or one that began again at zero.
    fn add(&mut self, interfaces: impl Iterator<Item = (String, (u64, u64))>) -> Option<(u64, u64)> {
        let mut now = BTreeMap::new();
        for (name, counters) in interfaces {
            let before = self.last.get(&name).copied().unwrap_or_default();
            let moved = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            self.total.0 = self.total.0.saturating_add(moved(counters.0, before.0)).min(MAX_COUNTER);
            self.total.1 = self.total.1.saturating_add(moved(counters.1, before.1)).min(MAX_COUNTER);
            now.insert(name, counters);
            self.seen = true;
        }
        self.last = now;
        self.seen.then_some(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(device: &str, file_system: &str, total: u64, available: u64) -> Mount {
        let used = total.saturating_sub(available);
        Mount { device: device.into(), file_system: file_system.into(), total, used, available }
    }

    #[test]
    fn what_is_reserved_is_not_used() {
        let reserved = Mount { used: 10, ..mount("/dev/sda1", "ext4", 100, 40) };
        assert_eq!(local_space([reserved].into_iter()), Some(Space { used: 10, total: 100 }));
    }

    #[cfg(unix)]
    #[test]
    fn the_used_space_of_the_root_is_within_its_total() {
        let space = rustix::fs::statvfs("/").unwrap();
        let used = used_space(std::path::Path::new("/")).unwrap();
        assert!(used <= space.f_blocks * space.f_frsize);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_counts_once_and_memory_and_network_not_at_all() {
        let space = local_space(
            [
                mount("/dev/sda1", "ext4", 100, 40),
                mount("/dev/sda1", "ext4", 100, 40),
                mount("/dev/sdb1", "btrfs", 50, 50),
                mount("/dev/loop3", "ext4", 9, 0),
                mount("overlay", "overlay", 100, 40),
                mount("tmpfs", "tmpfs", 100, 100),
                mount("host:/export", "fuse.sshfs", 100, 100),
                mount("//host/share", "smb3", 100, 100),
                mount("/dev/sdc1", "ext4", 0, 0),
            ]
            .into_iter(),
        );
        assert_eq!(space, Some(Space { used: 60, total: 150 }));
        assert_eq!(local_space([mount("overlay", "overlay", 100, 40)].into_iter()), None);
    }

    #[test]
    fn datasets_of_a_zfs_pool_share_what_is_left() {
        let datasets =
            [mount("tank", "zfs", 70, 60), mount("tank/home", "zfs", 80, 60), mount("tank/a", "zfs", 60, 60)];
        assert_eq!(local_space(datasets.into_iter()), Some(Space { used: 30, total: 90 }));
    }

    #[test]
    fn traffic_never_falls_when_an_interface_goes_or_begins_again() {
        let mut traffic = Traffic::default();
        let mut add = |interfaces: &[(&str, (u64, u64))]| {
            traffic.add(interfaces.iter().map(|(name, counters)| ((*name).to_owned(), *counters)))
        };
        assert_eq!(add(&[]), None, "no interface, no number");
        assert_eq!(add(&[("eth0", (100, 10)), ("veth1", (50, 5))]), Some((150, 15)));
        assert_eq!(add(&[("eth0", (110, 10))]), Some((160, 15)));
        assert_eq!(add(&[("eth0", (4, 1))]), Some((164, 16)));
        assert_eq!(add(&[("eth0", (4, 1)), ("veth1", (7, 0))]), Some((171, 16)));
        assert_eq!(add(&[]), Some((171, 16)));
    }

    #[test]
    fn facts_are_held_to_their_bounds() {
        assert_eq!(fact(" Debian\0 12 \n".into()).as_deref(), Some("Debian 12"));
        assert_eq!(fact("ü".repeat(200)).map(|text| text.len()), Some(254));
        assert_eq!(fact(" \n".into()), None);
    }

    /// The first number needs two samples, apart enough to be told apart; without them it would be made up.
    #[test]
    fn the_processor_is_sampled_at_construction_and_again_after_a_while() {
        let mut sampler = Sampler::new().expect("this machine can be measured");
        assert!(!sampler.system.cpus().is_empty());
        let first = sampler.sampled_at;
        sampler.sample();
        assert!(sampler.sampled_at - first >= sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
    }

    /// The bounds are the server's: what is measured here would be taken there.
    #[tokio::test]
    async fn the_first_collection_of_this_machine_is_real_and_within_bounds() {
        let mut collector = SystemCollector::new().expect("this machine can be measured");
        // Something to be measured: a first sample made up as zero would not show it.
        let busy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let spinning = std::thread::spawn({
            let busy = Arc::clone(&busy);
            move || {
                while busy.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        });
        let collected = collector.collect().await;
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        spinning.join().expect("it only spins");

        let Collected { facts, metrics, .. } = &collected;
        assert!(metrics.cpu_percent.is_some_and(|percent| percent > 0.0 && percent <= 100.0), "{metrics:?}");
        let (used, total) = (metrics.memory_used_bytes.expect("used"), metrics.memory_total_bytes.expect("total"));
        assert!(0 < used && used < total);
        assert!(facts.cpu_count.is_some() && facts.os.is_some() && facts.kernel.is_some() && facts.arch.is_some());
        #[cfg(target_os = "linux")]
        assert_eq!(facts.boot_id.as_ref().map(String::len), Some(36));
        let report = enlist_core::telemetry::Report {
            recorded_at: enlist_core::Timestamp::MIN,
            host: enlist_core::telemetry::HostReport {
                facts: Some(facts.clone()),
                metrics: *metrics,
                custom: BTreeMap::new(),
            },
            containers: Vec::new(),
            containers_complete: false,
            agent: None,
        };
        let json = serde_json::to_vec(&report).expect("JSON");
        enlist_core::telemetry::parse_report(&json).expect("within the server's bounds");
    }
}
