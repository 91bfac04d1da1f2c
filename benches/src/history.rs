//! What a fleet has reported before anything is measured: the same reports for every contestant.

use crate::report::{Report, Scattered};

/// Half a minute: how far apart a host's reports are, as real ones.
pub const HALF_A_MINUTE: i64 = 30_000_000;
/// A day, in microseconds.
pub const DAY: i64 = 86_400_000_000;

/// When hosts reported. Each of them has its turn in each pass, in an order that scatters; its sequence is the number of
/// the pass, from one. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// That report.
    pub hosts: u32,
    /// Since 1970: the beginning of pass 0, which nobody reported in.
    pub start: i64,
    /// From one report of a host to its next; the hosts are spread over it.
    pub interval: i64,
}

impl History {
    /// One that has room for this many reports before `end`.
    pub fn before(end: i64, hosts: u32, reports: u64, interval: i64) -> Self {
        let passes = reports.div_ceil(u64::from(hosts)) as i64 + 1;
        Self { hosts, start: end - passes * interval, interval }
    }

    /// One whose passes fill whole days in UTC, about so many reports in each, all before the day of `end`.
    pub fn by_day(end: i64, hosts: u32, reports: u64, a_day: u64) -> Self {
        let wanted = (a_day / u64::from(hosts)).max(1) as i64;
        // So that a day is a number of passes: one divides it, at least.
        let passes = (1..=wanted).rev().find(|passes| DAY % passes == 0).unwrap_or(1);
        let days = reports.div_ceil(passes as u64 * u64::from(hosts)) as i64;
        let interval = DAY / passes;
        // Pass 1 begins with a day.
        Self { hosts, start: (end.div_euclid(DAY) - days) * DAY - interval, interval }
    }

    /// Reports of a day, when passes fill it.
    pub fn reports_a_day(&self) -> u64 {
        (DAY / self.interval) as u64 * u64::from(self.hosts)
    }

    /// When a host measured its report with this number.
    pub fn recorded_at(&self, host: u32, sequence: u32) -> i64 {
        let phase = self.interval * i64::from(host) / i64::from(self.hosts);
        self.start + i64::from(sequence) * self.interval + phase
    }

    /// The first sequence that no host has used after so many reports.
    pub fn sequence_after(&self, reports: u64) -> u32 {
        reports.div_ceil(u64::from(self.hosts)) as u32 + 1
    }

    /// The reports in their order, from the one after the first `skip` on. They do not end.
    pub fn reports(self, skip: u64) -> impl Iterator<Item = Report> + Send + Sync {
        let mut order = Scattered::new((0..self.hosts).collect(), 1);
        (0_u64..)
            .map(move |number| (order.next_host(), (number / u64::from(self.hosts)) as u32 + 1, number))
            .filter(move |(_, _, number)| *number >= skip)
            .map(move |(host, sequence, _)| Report::new(host, sequence, self.recorded_at(host, sequence)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const END: i64 = 1_800_000_000_000_000;

    #[test]
    fn each_host_reports_an_interval_after_its_last_report_and_all_of_them_before_the_end() {
        let history = History::before(END, 7, 20, HALF_A_MINUTE);
        let reports: Vec<Report> = history.reports(0).take(20).collect();
        assert_eq!(reports.iter().map(|report| (report.host, report.recorded_at)).collect::<HashSet<_>>().len(), 20);
        for host in 0..7 {
            let of_host = reports.iter().filter(|report| report.host == host);
            let times: Vec<i64> = of_host.map(|report| report.recorded_at).collect();
            assert!((2..=3).contains(&times.len()), "{times:?}");
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == HALF_A_MINUTE), "{times:?}");
        }
        assert!(reports.iter().all(|report| report.recorded_at < END));
        assert!(reports.iter().any(|report| report.recorded_at > END - 2 * HALF_A_MINUTE));
    }

    #[test]
    fn days_are_filled_by_whole_passes() {
        let history = History::by_day(END, 30, 1_000, 200);
        assert_eq!(history.reports_a_day(), 180);
        let mut of_day = std::collections::BTreeMap::<i64, usize>::new();
        for report in history.reports(0).take(1_000) {
            *of_day.entry(report.recorded_at.div_euclid(DAY)).or_default() += 1;
        }
        assert_eq!(of_day.values().copied().collect::<Vec<_>>(), [180, 180, 180, 180, 180, 100]);
        assert_eq!(of_day.keys().next_back(), Some(&(END.div_euclid(DAY) - 1)));
        assert_eq!(history.recorded_at(0, 1) % DAY, 0);
        // More hosts than that have a pass a day.
        assert_eq!(History::by_day(END, 300, 1_000, 200).reports_a_day(), 300);
    }

    #[test]
    fn it_goes_on_where_it_was_left() {
        let history = History::before(END, 5, 30, HALF_A_MINUTE);
        let all: Vec<Report> = history.reports(0).take(30).collect();
        for skip in [0, 4, 5, 13, 29] {
            let rest: Vec<Report> = history.reports(skip).take(30 - skip as usize).collect();
            assert_eq!(rest, all[skip as usize..]);
        }
        assert_eq!((history.sequence_after(10), history.sequence_after(11)), (3, 4));
    }
}
