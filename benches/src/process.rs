//! What a process has used, from `/proc`.

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
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat is not as expected"))?;
    Ok(TICK * ticks)
}

/// utime and stime: the 14th and 15th field, counted past the name, which may hold spaces and brackets.
fn ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_past_a_name_with_brackets() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 7 8 20 0 4";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("42"), None);
        assert!(cpu_time(std::process::id()).is_ok());
    }
}
