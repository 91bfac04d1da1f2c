//! What each host of the fleet is like: it follows from its number, so that fleets of any size are alike.

use enlist_core::host::HostKind;

/// Nine hosts of ten are this one's.
pub(super) const LARGE: &str = "large";
/// Nine of a hundred.
pub(super) const MIDDLE: &str = "middle";
/// One of a hundred.
pub(super) const SMALL: &str = "small";

/// Half of all hosts.
pub(super) const COMMON: &str = "common";
/// One of a hundred.
pub(super) const UNCOMMON: &str = "uncommon";
/// Ten, however large the fleet, so that what grows with it is not their number: all of them can take work.
pub(super) const RARE: &str = "rare";
/// All that are online, so none that is unreachable.
pub(super) const HEARD: &str = "heard";
/// All that are unreachable, as when a data centre is cut off: nothing can be placed there.
pub(super) const CUT_OFF: &str = "cut-off";

/// How a host ends up before anything is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Heard: nearly all.
    Online,
    /// Not heard any more: five of a hundred.
    Unreachable,
    /// Out of service: one of a hundred.
    Archived,
}

/// What a host is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    number: u32,
    is_rare: bool,
    pub(super) fate: Fate,
}

impl Traits {
    /// Of the host with this number, of so many.
    pub(super) fn of(number: u32, hosts: u32) -> Self {
        let is_rare = number % (hosts / 10).max(3) == 2;
        let fate = match of_hundred(number, 1) {
            _ if is_rare => Fate::Online,
            0 => Fate::Archived,
            1..=5 => Fate::Unreachable,
            _ => Fate::Online,
        };
        Self { number, is_rare, fate }
    }

    pub(super) fn tenant(self) -> &'static str {
        match of_hundred(self.number, 2) {
            0 => SMALL,
            1..=9 => MIDDLE,
            _ => LARGE,
        }
    }

    pub(super) fn kind(self) -> HostKind {
        if of_hundred(self.number, 3) < 10 { HostKind::Byoc } else { HostKind::Managed }
    }

    pub(super) fn is_cordoned(self) -> bool {
        !self.is_rare && of_hundred(self.number, 4) < 3
    }

    /// Six of ten are `web-…`, one of a hundred `edge-…`, the others `db-…`.
    pub(super) fn name(self) -> String {
        let role = match of_hundred(self.number, 5) {
            0 => "edge",
            1..=60 => "web",
            _ => "db",
        };
        format!("{role}-{:06}", self.number)
    }

    pub(super) fn tags(self) -> impl Iterator<Item = &'static str> {
        let is_common = of_hundred(self.number, 6) < 50;
        let is_uncommon = of_hundred(self.number, 7) == 0;
        let tags = [
            (COMMON, is_common),
            (UNCOMMON, is_uncommon),
            (RARE, self.is_rare),
            (HEARD, self.fate == Fate::Online),
            (CUT_OFF, self.fate == Fate::Unreachable),
        ];
        tags.into_iter().filter(|(_, has)| *has).map(|(tag, _)| tag)
    }
}

/// From 0 to 99, evenly, and each `choice` without regard to the others.
fn of_hundred(number: u32, choice: u64) -> u64 {
    // SplitMix64.
    let mut mixed = (u64::from(number) << 8 | choice).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_of_any_size_is_made_up_as_it_says() {
        for hosts in [300, 1_000, 100_000] {
            let traits: Vec<_> = (0..hosts).map(|number| Traits::of(number, hosts)).collect();
            let share = |has: &dyn Fn(&Traits) -> bool| {
                f64::from(traits.iter().filter(|traits| has(traits)).count() as u32) / f64::from(hosts)
            };
            let tagged = |tag| share(&move |traits: &Traits| traits.tags().any(|other| other == tag));
            for (share, wanted) in [
                (share(&|traits| traits.tenant() == LARGE), 0.9),
                (share(&|traits| traits.tenant() == SMALL), 0.01),
                (share(&|traits| traits.fate == Fate::Unreachable), 0.05),
                (share(&|traits| traits.fate == Fate::Archived), 0.01),
                (share(&|traits| traits.is_cordoned()), 0.03),
                (tagged(COMMON), 0.5),
                (tagged(UNCOMMON), 0.01),
                (tagged(HEARD), 0.94),
            ] {
                assert!(share > 0.0 && (share - wanted).abs() < 0.06, "{share} instead of {wanted} of {hosts}");
            }
            let rare: Vec<_> = traits.iter().filter(|traits| traits.is_rare).collect();
            assert_eq!(rare.len(), 10);
            assert!(rare.iter().all(|traits| traits.fate == Fate::Online && !traits.is_cordoned()));
        }
    }
}
