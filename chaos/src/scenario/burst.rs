//! Which ports a burst of young connections uses: enough on the directors that the fault is about.

use std::collections::BTreeSet;

use super::clients::Port;
use super::judge::ENOUGH_YOUNG;

/// The burst begins this long before the fault (ms): all of it is younger than `replicate-after`.
pub const BEFORE_MS: u64 = 2_900;
/// And goes on for this long in all (ms): past the fault, so that some are newborn then.
pub const OVER_MS: u64 = 3_400;

/// More sockets than these are not bound at a time.
const MOST_SOCKETS: u32 = 16_000;

/// How many connections a burst has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Those that sit on a director that the fault is about.
    pub hit: usize,
    /// Others.
    pub bystanders: usize,
}

/// Young connections around a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Young {
    /// The burst of each fault.
    pub burst: Size,
    /// The same of planned changes, and of faults that end nobody.
    pub planned: Size,
    /// How many have to change director in a crash for it to prove something.
    pub needed: u64,
    /// How many come and go at all times, a second.
    pub per_second: u32,
}

impl Young {
    /// Those of the demo: `crowd` of them on the director that fails.
    pub fn of_demo(crowd: u32) -> Young {
        Young { planned: Size { hit: 0, bystanders: 0 }, per_second: 20, ..Young::of_matrix(crowd) }
    }

    /// Those of the matrix, where planned changes have their share, too.
    pub fn of_matrix(crowd: u32) -> Young {
        let size = crowd as usize;
        Young {
            burst: Size { hit: size, bystanders: size / 4 },
            planned: Size { hit: size / 4, bystanders: size / 4 },
            // A seventh comes after the fault, and some are newborn then.
            needed: (u64::from(crowd) * 5 / 7).min(ENOUGH_YOUNG),
            per_second: 40,
        }
    }
}

impl Size {
    /// How many ports have to be tried, so that enough of them lead to those directors.
    pub fn candidates(&self, targets: usize, serving: usize) -> u32 {
        let hit = if targets == 0 { self.hit } else { (self.hit * serving).div_ceil(targets) };
        // Others are among those already, but where all are hit; a tenth more than is to be expected.
        (hit.max(self.hit + self.bystanders) * 11 / 10 + 16) as u32
    }
}

/// How many of these ports lead to such a director.
fn hits(ports: &[Port], targets: &BTreeSet<String>) -> usize {
    ports.iter().filter(|p| targets.contains(&p.director)).count()
}

/// How many ports have to be tried instead of these, if too few of them lead to those directors: the ports
/// of earlier bursts rest for a minute, and if the same director was hit, most of them were its own.
pub fn more(ports: &[Port], targets: &BTreeSet<String>, size: Size) -> Option<u32> {
    let (tried, hit) = (ports.len(), hits(ports, targets));
    let wanted = tried * size.hit * 11 / 10 / hit.max(1) + 16;
    let few = (1..size.hit).contains(&hit) && tried < MOST_SOCKETS as usize;
    few.then_some((wanted as u32).min(MOST_SOCKETS))
}

/// Takes as many as are wished for, in the order of the ports: which ones a hash put first is no
/// pattern that a hash would know.
pub fn pick(ports: Vec<Port>, targets: &BTreeSet<String>, size: Size) -> Vec<Port> {
    let (hit, others): (Vec<Port>, Vec<Port>) =
        ports.into_iter().partition(|p| targets.contains(&p.director));
    // Where the fault is about nobody, all are others.
    let bystanders = if targets.is_empty() { size.hit + size.bystanders } else { size.bystanders };
    let mut chosen: Vec<Port> =
        hit.into_iter().take(size.hit).chain(others.into_iter().take(bystanders)).collect();
    // Both kinds at all ages.
    chosen.sort_by_key(|p| u32::from(p.local.port()).wrapping_mul(0x9e37_79b9));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(count: u16, directors: u16) -> Vec<Port> {
        let port = |n: u16| Port {
            client: 0,
            local: std::net::SocketAddrV4::new([10, 72, 1, 2].into(), 40_000 + n),
            director: format!("d{}", 1 + n % directors),
        };
        (0..count).map(port).collect()
    }

    #[test]
    fn enough_sit_on_the_directors_that_are_hit() {
        let size = Size { hit: 100, bystanders: 50 };
        for (targets, serving) in [(1, 3), (1, 4), (2, 5), (3, 3)] {
            let candidates = size.candidates(targets, serving) as u16;
            let names = (1..=targets).map(|n| format!("d{n}")).collect();
            let chosen = pick(ports(candidates, serving as u16), &names, size);
            let hit = chosen.iter().filter(|p| names.contains(&p.director)).count();
            assert_eq!(hit, 100, "{targets} of {serving}");
            let others = if targets == serving { 0 } else { 50 };
            assert_eq!(chosen.len() - hit, others, "{targets} of {serving}");
        }
    }

    #[test]
    fn by_default_a_thousand_are_needed() {
        assert_eq!(Young::of_demo(crate::args::YOUNG).needed, 1_000);
        assert_eq!(Young::of_matrix(280).needed, 200);
    }

    #[test]
    fn more_ports_are_tried_where_earlier_bursts_had_them() {
        let size = Size { hit: 1_000, bystanders: 250 };
        let names = BTreeSet::from(["d1".to_owned()]);
        assert_eq!(more(&ports(4_000, 4), &names, size), None, "enough");
        assert_eq!(more(&ports(4_000, 5), &names, size), Some(5_516));
        assert_eq!(more(&ports(4_000, 80), &names, size), Some(MOST_SOCKETS));
        assert_eq!(more(&ports(16_000, 80), &names, size), None, "there are no more");
        assert_eq!(more(&ports(4_000, 4), &BTreeSet::new(), size), None, "it is about nobody");
    }

    #[test]
    fn both_kinds_come_at_all_times() {
        let size = Size { hit: 100, bystanders: 100 };
        let names = BTreeSet::from(["d1".to_owned()]);
        let chosen = pick(ports(600, 3), &names, size);
        let early = chosen[..100].iter().filter(|p| p.director == "d1").count();
        assert!((30..70).contains(&early), "{early}");
    }

    #[test]
    fn a_fault_about_nobody_takes_any() {
        let size = Size { hit: 40, bystanders: 80 };
        let chosen = pick(ports(size.candidates(0, 3) as u16, 3), &BTreeSet::new(), size);
        assert_eq!(chosen.len(), 120);
    }
}
