//! The machine that figures are from, as far as it matters to them: no name and no path of it.

use std::fs;
use std::path::Path;

use crate::process::kilobytes;

/// Facts of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// What the CPU calls itself.
    pub cpu_model: String,
    /// Memory, in bytes.
    pub memory: u64,
    /// The version of the kernel.
    pub kernel: String,
    /// The kind of file system that temporary files lie on.
    pub file_system: String,
}

impl Machine {
    /// Reads them from `/proc`; what cannot be read is "unknown".
    pub fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let known = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned());
        let directory = std::env::temp_dir();
        let directory = directory.canonicalize().unwrap_or(directory);
        Self {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu_model: known(cpu_model(&read("/proc/cpuinfo"))),
            memory: kilobytes(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) * 1_024,
            kernel: known(Some(read("/proc/sys/kernel/osrelease").trim().to_owned())),
            file_system: known(file_system(&read("/proc/self/mountinfo"), &directory)),
        }
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// That of the deepest mount that `path` lies in; the last one mounted there counts. The mount point is the fifth field,
/// the kind the first one behind a lone dash.
fn file_system(mountinfo: &str, path: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        Some((Path::new(mount.split(' ').nth(4)?), kind.split(' ').next()?))
    });
    let holding = mounts.filter(|(point, _)| path.starts_with(point));
    let (_, kind) = holding.max_by_key(|(point, _)| point.components().count())?;
    Some(kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /tmp rw - tmpfs tmpfs rw
24 23 0:22 / /tmp/data rw - xfs /dev/vdb rw
25 22 0:23 / /tmpdir rw - btrfs /dev/vdc rw
26 23 0:24 / /tmp/data rw - zfs pool rw
";

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let kind = |path| file_system(MOUNTS, Path::new(path));
        assert_eq!(kind("/var/lib").as_deref(), Some("ext4"));
        assert_eq!(kind("/tmp").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmp/data/x").as_deref(), Some("zfs"));
        assert_eq!(kind("/tmpdir").as_deref(), Some("btrfs"));
        assert_eq!(file_system("", Path::new("/")), None);
    }

    #[test]
    fn the_cpu_says_what_it_is() {
        let info = "processor\t: 0\nmodel name\t: A CPU @ 2.00GHz\n\nprocessor\t: 1\nmodel name\t: another\n";
        assert_eq!(cpu_model(info).as_deref(), Some("A CPU @ 2.00GHz"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory > 0, "{machine:?}");
    }
}
