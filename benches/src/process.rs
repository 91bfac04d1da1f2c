//! What processes have used, from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

/// The kernel counts in these; `USER_HZ` is 100 on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of the process so far, of all its threads.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    Ok(TICK * stat_of(pid)?.own)
}

/// The same of a process and its children, those that have ended and were waited for included: a PostgreSQL, by its
/// postmaster.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn family_cpu_time(parent: u32) -> io::Result<Duration> {
    let Stat { own, ended_children, .. } = stat_of(parent)?;
    let mut ticks = own + ended_children;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ends meanwhile is counted by its parent the next time.
        if let Ok(Stat { parent: its, own, .. }) = stat_of(pid)
            && its == parent
        {
            ticks += own;
        }
    }
    Ok(TICK * ticks)
}

/// The most memory that the process ever had resident, in bytes (`VmHWM`).
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub fn peak_memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, "VmHWM:").map(|kilobytes| kilobytes * 1_024).ok_or_else(|| unexpected("status"))
}

/// The number behind `name` in a file of lines like `MemTotal:  16 kB`.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// A part of `/proc/PID/stat`; times in ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own: u32,
    ended_children: u32,
}

fn stat_of(pid: u32) -> io::Result<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| unexpected("stat"))
}

impl Stat {
    /// The 4th field and the 14th to 17th, counted past the name, which may hold spaces and brackets.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u32>().ok();
        Some(Self {
            parent: number(1)?,
            own: number(11)?.checked_add(number(12)?)?,
            ended_children: number(13)?.checked_add(number(14)?)?,
        })
    }
}

fn unexpected(file: &str) -> io::Error {
    io::Error::other(format!("/proc/PID/{file} is not as expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_past_a_name_with_brackets() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 7 8 20 0 4";
        assert_eq!(Stat::parse(stat), Some(Stat { parent: 1, own: 300, ended_children: 15 }));
        assert_eq!(Stat::parse("42"), None);
        assert_eq!(Stat::parse("42 (a) S 1 2 3"), None);
        assert!(cpu_time(std::process::id()).is_ok());
    }

    #[test]
    fn a_child_that_ended_stays_counted() {
        let used = |pid| family_cpu_time(pid).expect("this process is there");
        let before = used(std::process::id());
        let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let mut child = std::process::Command::new("sh").args(["-c", work]).spawn().expect("a shell");
        assert!(child.wait().expect("it ends").success());
        assert!(used(std::process::id()) > before);
    }

    #[test]
    fn memory_is_found_by_its_name() {
        let status = "VmPeak:\t  9 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 7 kB\n";
        assert_eq!(kilobytes(status, "VmHWM:"), Some(1_234));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
        assert!(peak_memory(std::process::id()).expect("this process is there") > 0);
    }
}
