//! What goes wrong, when, and for how long.

use super::Plan;
use crate::rng::Rng;

/// Something that goes wrong.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// The daemon dies; it comes back when the fault ends. Its machine goes on.
    Kill(u32),
    /// The machine dies without a word: what was not synced is lost.
    Crash(u32),
    /// The daemon is stopped, and goes on when the fault ends.
    Freeze(u32),
    /// No message passes between these and the others.
    Partition(Vec<u32>),
    /// No message passes from the first to the second.
    OneWay(u32, u32),
    /// This director's packets are lost, in both directions; its peers hear it.
    Dark(u32),
    /// The router hashes anew.
    Reshuffle,
    /// Packets are lost, of a million.
    Loss(u32),
    /// An operator drains a director, and undrains it when the fault ends.
    Drain(u32),
    /// A director that was not there yet joins.
    Join(u32),
    /// The wall clock of a director jumps by so many ms.
    WallClock(u32, i64),
    /// A backend gets no new sessions.
    DrainBackend(u32),
    /// A director's disk takes this long (us) for everything.
    SlowDisk(u32, u64),
    /// A director's disk is full, and takes nothing until the fault ends.
    FullDisk(u32),
    /// What a director writes of its session groups next is an error of its disk.
    FailedWrite(u32),
    /// No message passes between these two; all others hear both.
    Cut(u32, u32),
    /// The network between directors is bad, or that of one of them. Connections lose nothing, but what each
    /// of them brings may be late, and with it what follows.
    BadPeers {
        /// Whose.
        of: Option<u32>,
        /// Heartbeats that are not sent, because a connection has no room for them, of a million.
        lost: u32,
        /// Messages that are late, of a million. Heartbeats and requests overtake each other then.
        late: u32,
        /// How late (us), at the most.
        late_us: u64,
    },
    /// One stream from the first to the second stands still: what is sent on it waits.
    StallStream(u32, u32, Stream),
    /// A director's disk does nothing until the fault ends; then runs of its jobs follow one another.
    StallDisk(u32),
}

/// The streams of messages between two directors. (Each heartbeat and each request has a stream of its own.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stream {
    /// Registrations, and what raft says without entries.
    Control,
    /// Entries of the logs, and changes on their way to leaders.
    Log,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A fault and its time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Planned {
    /// When it begins (us).
    pub at_us: u64,
    /// When it ends (us), for those that end.
    pub until_us: u64,
    /// What.
    pub fault: Fault,
}

const S: u64 = 1_000_000;

/// Draws the first kinds of faults of a plan: kinds, rates and times.
pub fn draw(plan: &Plan, rng: &mut Rng) -> Vec<Planned> {
    let mut faults = Vec::new();
    for late in plan.founding..plan.directors {
        let at_us = rng.between(13 * S, 25 * S);
        faults.push(Planned { at_us, until_us: at_us, fault: Fault::Join(late + 1) });
    }
    // What happens at all in this seed, so that seeds differ in character.
    let kinds: Vec<u64> = (0..rng.between(1, 4)).map(|_| rng.below(12)).collect();
    let mut crashed = false;
    for _ in 0..rng.between(1, 7) {
        let who = rng.between(1, u64::from(plan.directors)) as u32;
        let other = 1 + (who + rng.below(u64::from(plan.directors) - 1) as u32) % plan.directors;
        let at_us = rng.between(3 * S, plan.heal_us - S);
        let long = rng.between(S / 2, 20 * S);
        let (fault, lasts_us) = match rng.pick(&kinds).copied().unwrap_or(0) {
            // One machine at the most, and of three: a majority that has lost its memory is for the
            // operator to recover.
            1 if !crashed && plan.directors > 2 => {
                crashed = true;
                (Fault::Crash(who), rng.between(S, 15 * S))
            }
            0 | 1 => (Fault::Kill(who), rng.between(S / 5, 15 * S)),
            2 => (Fault::Freeze(who), rng.between(S / 50, 5 * S)),
            3 => (Fault::Partition(vec![who]), long),
            4 => (Fault::OneWay(who, other), long),
            5 => (Fault::Dark(who), rng.between(S / 100, S / 2)),
            6 => (Fault::Reshuffle, 0),
            7 => (Fault::Loss(rng.between(10_000, 200_000) as u32), rng.between(S / 5, 3 * S)),
            8 => (Fault::Drain(who), long + 10 * S),
            9 => (Fault::WallClock(who, rng.between(0, 600_000) as i64 - 300_000), 0),
            10 => (Fault::DrainBackend(rng.below(u64::from(plan.backends)) as u32), 0),
            _ => (Fault::SlowDisk(who, rng.between(1_000, 400_000)), long),
        };
        faults.push(Planned { at_us, until_us: (at_us + lasts_us).min(plan.heal_us), fault });
    }
    faults.sort_by_key(|planned| planned.at_us);
    faults
}

/// One seed in so many has a disk that takes nothing more, or fails.
const DISKS: u64 = 8;

/// Draws what disks refuse.
pub fn draw_disks(plan: &Plan, rng: &mut Rng) -> Vec<Planned> {
    if !rng.chance(1, DISKS) {
        return Vec::new();
    }
    let who = rng.between(1, u64::from(plan.directors)) as u32;
    let at_us = rng.between(5 * S, plan.heal_us - S);
    let until_us = (at_us + rng.between(S / 2, 15 * S)).min(plan.heal_us);
    // A failed write makes a director forget its sessions, as a dead machine does: one of the two.
    let crashes = plan.faults.iter().any(|planned| matches!(planned.fault, Fault::Crash(_)));
    let fault = match rng.chance(1, 2) && plan.directors > 2 && !crashes {
        true => Fault::FailedWrite(who),
        false => Fault::FullDisk(who),
    };
    vec![Planned { at_us, until_us, fault }]
}
